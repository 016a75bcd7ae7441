// Keeps the page up to date while somebody looks at it: the page is fetched again, and only what changed is changed.
"use strict";
(() => {
  const EVERY_MS = 1000;
  const main = document.getElementById("main");
  const offline = document.getElementById("offline");
  let last = "";

  // --- times: the server writes moments, this writes how long ago they were --------------------------------------

  const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

  function span(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min`;
    if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
    return `${Math.floor(whole / 86400)} d`;
  }

  function tell(time) {
    const at = new Date(time.dateTime);
    const ago = (Date.now() - at.getTime()) / 1000;
    let text;
    if ("since" in time.dataset) text = `for ${span(ago)}`;
    else if ("until" in time.dataset) text = ago < -0.5 ? `in ${span(-ago)}` : "any moment";
    else text = ago < 5 ? "just now" : `${span(ago)} ago`;
    if (time.textContent !== text) time.textContent = text;
    time.title = clock.format(at);
  }

  const tellAll = () => document.querySelectorAll("time").forEach(tell);

  // --- the page: one tree becomes like the other, and what is the same is left alone ------------------------------

  function alike(one, other) {
    return one.nodeType === other.nodeType && one.nodeName === other.nodeName && one.id === other.id;
  }

  function become(old, fresh) {
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) return;
    if (old.nodeName === "TIME" && old.getAttribute("datetime") === fresh.getAttribute("datetime")) return;
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open" && name !== "title") old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const children = [...fresh.childNodes];
    children.forEach((child, index) => {
      const there = old.childNodes[index];
      if (there === undefined) old.append(document.importNode(child, true));
      else if (alike(there, child)) become(there, child);
      else if (child.id && old.childNodes[index + 1] && !document.getElementById(child.id)) {
        old.insertBefore(document.importNode(child, true), there);
      } else there.replaceWith(document.importNode(child, true));
    });
    while (old.childNodes.length > children.length) old.lastChild.remove();
  }

  function away(text) {
    offline.textContent = text;
    offline.hidden = !text;
  }

  async function refresh() {
    let answer;
    try {
      answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(10000) });
    } catch {
      away("The backend does not answer. What you see may be out of date; trying again…");
      return;
    }
    if (answer.redirected) {
      location.reload();
      return;
    }
    const text = await answer.text();
    if (answer.status >= 500) {
      away("Redis or the version store does not answer. What you see may be out of date; trying again…");
      return;
    }
    away("");
    if (text === last) return;
    last = text;
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const said = document.getElementById("said");
    const body = fresh.getElementById("main");
    if (said && !body.querySelector("#said")) body.prepend("\n    ", said.cloneNode(true));
    document.title = fresh.title;
    become(main, body);
    tellAll();
  }

  async function keepUp() {
    const began = performance.now();
    if (document.visibilityState === "visible") await refresh();
    // A slow backend is asked less often.
    setTimeout(keepUp, Math.max(EVERY_MS, 4 * (performance.now() - began)));
  }

  tellAll();
  setInterval(tellAll, 1000);
  if ("live" in main.dataset) setTimeout(keepUp, EVERY_MS);
  document.addEventListener("visibilitychange", () => {
    if ("live" in main.dataset && document.visibilityState === "visible") refresh();
  });
})();
