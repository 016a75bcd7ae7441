"""Sample data made for this project: short messages to a web shop, in three kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: dict[str, tuple[str, ...]] = {
    "Delivery": (
        "my parcel has not arrived yet",
        "the tracking page has shown nothing new for a week",
        "the courier left the box at the wrong house",
        "when will the package be delivered",
        "can the delivery come on Saturday instead",
        "the parcel was delivered wet and torn",
        "please send it to the pick-up point",
        "the delivery date has changed twice",
        "nobody rang, and the parcel went back to the depot",
        "half of the shipment is missing",
        "how long does shipping to Norway take",
        "the courier wants another address for the parcel",
    ),
    "Payment": (
        "the card was charged twice",
        "my refund is not on my account",
        "the invoice shows a wrong amount",
        "can I pay by bank transfer",
        "the voucher was not taken off the price",
        "please send the invoice again",
        "the payment was refused and I do not know why",
        "I was billed for something that I sent back",
        "how do I change the card that is charged",
        "the refund is lower than the price I paid",
        "do you take payment in instalments",
        "there is a fee on the invoice that nobody mentioned",
    ),
    "Account": (
        "I cannot sign in any more",
        "the password reset mail does not come",
        "please delete my account",
        "how do I change my e-mail address",
        "somebody else signed in to my account",
        "my account is locked after three tries",
        "the app asks for a code that I never get",
        "can two people share one account",
        "I want to change the name on my profile",
        "the sign-in page says that my user name is unknown",
        "how do I switch off the newsletter in my profile",
        "my new password is not accepted",
    ),
}
_OPENINGS = ("Hello, {}.", "{}!", "Since yesterday: {}.", "Sorry to ask, but {}.", "Order 4{number}: {}.")
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="kind" toName="text" choice="single" showInline="true">'
    + "".join(f'<Choice value="{kind}"/>' for kind in KINDS)
    + "</Choices></View>"
)


def texts() -> Iterator[tuple[str, str]]:
    """(text, kind) of 180 messages, the kinds in turn, always the same."""
    for number, opening in enumerate(_OPENINGS):
        for index in range(len(next(iter(KINDS.values())))):
            for kind, sentences in KINDS.items():
                sentence = sentences[(index + 5 * number) % len(sentences)]
                text = opening.format(sentence, number=f"{number}{index:02}")
                yield text[0].upper() + text[1:], kind
