"""The commands of ml-backend and their options; each command's work stands in a file of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ml_backend import __version__
from ml_backend.cli.terminal import Console
from ml_backend.errors import RefitError, Unavailable
from ml_backend.secret_files import read_secret_files
from ml_backend.setting_names import unknown_variables
from ml_backend.settings import Settings

app = typer.Typer(
    name="ml-backend",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Model = Annotated[
    str | None,
    typer.Argument(
        help="A file, a folder with model.py, file.py:Class or package.module:Class; the shipped models, if not given."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where the private Valkey and the versions lie.", show_default=".ml-backend"),
]
Host = Annotated[
    str | None,
    typer.Option(help="Address to bind to; 0.0.0.0 lets containers and other machines in.", show_default="127.0.0.1"),
]
Port = Annotated[int | None, typer.Option(help="Port to bind to.", show_default="9090")]
Insecure = Annotated[bool | None, typer.Option("--insecure", help="Ask callers for no credentials.")]
Project = Annotated[str | None, typer.Argument(help="The project's id or uid; not needed while there is only one.")]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ml-backend {__version__}")
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the release and exit.")
    ] = False,
) -> None:
    """A Label Studio ML backend that retrains by itself."""


def _settings(**overrides: Any) -> Settings:
    read_secret_files(os.environ)
    found = Settings.from_environment(os.environ, **overrides)
    for said in unknown_variables(os.environ):
        Console(stderr=True, soft_wrap=True).print(Text.assemble(("note:", "bold yellow"), f" {said}"))
    return found


@app.command()
def start(
    model: Model = None,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    insecure: Insecure = None,
) -> None:
    """Start everything: web server, workers, clock and a private Valkey."""
    from ml_backend.cli.start import start_all  # noqa: PLC0415 - only this command needs a process tree

    raise typer.Exit(start_all(_settings(model=model, host=host, port=port, data_dir=data_dir, insecure=insecure)))


@app.command()
def serve(
    model: Model = None,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    insecure: Insecure = None,
) -> None:
    """Start the web server alone, on the Redis that REDIS_URL names."""
    from ml_backend.cli.start import start_web  # noqa: PLC0415

    raise typer.Exit(start_web(_settings(model=model, host=host, port=port, data_dir=data_dir, insecure=insecure)))


@app.command()
def worker(model: Model = None, data_dir: DataDir = None) -> None:
    """Start workers and the clock, on the Redis that REDIS_URL names."""
    from ml_backend.cli.start import start_workers  # noqa: PLC0415

    raise typer.Exit(start_workers(_settings(model=model, data_dir=data_dir)))


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="The folder to make; its name becomes the class's.")],
) -> None:
    """Write the skeleton of a model of your own, with its test; it trains and predicts as it is."""
    from ml_backend.cli.new import write_skeleton  # noqa: PLC0415

    write_skeleton(folder)


@app.command()
def status(
    project: Annotated[str | None, typer.Argument(help="The project's id or uid; all projects, if not given.")] = None,
    data_dir: DataDir = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="For scripts, with all counters and the last decisions.")
    ] = False,
) -> None:
    """Show where every project stands and why: progress to the next training, training set, run, what serves."""
    from ml_backend.cli.show import show_status  # noqa: PLC0415

    show_status(_settings(data_dir=data_dir), project, as_json=as_json)


@app.command()
def train(
    project: Project = None,
    data_dir: DataDir = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show how far it is.")] = False,
) -> None:
    """Train now with whatever there is, as Start Training does."""
    from ml_backend.cli.jobs import train_now  # noqa: PLC0415

    raise typer.Exit(train_now(_settings(data_dir=data_dir), project, watch=watch))


@app.command()
def jobs(
    project: Annotated[
        str | None,
        typer.Argument(help="The project's id or uid, or a run's id; all projects, if not given."),
    ] = None,
    data_dir: DataDir = None,
    limit: Annotated[int, typer.Option(min=0, max=200, help="Ended runs of each project.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """List runs: what waits, what trains and what is over; of a failed one that is named, the traceback too."""
    from ml_backend.cli.jobs import show_jobs  # noqa: PLC0415

    show_jobs(_settings(data_dir=data_dir), project, limit=limit, as_json=as_json)


@app.command()
def cancel(
    run: Annotated[str | None, typer.Argument(help="The run's id; not needed while there is only one.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Cancel a run that waits or trains; nothing of it is published."""
    from ml_backend.cli.jobs import cancel_run  # noqa: PLC0415

    raise typer.Exit(cancel_run(_settings(data_dir=data_dir), run))


@app.command()
def sync(
    project: Annotated[str | None, typer.Argument(help="The project's id or uid; all projects, if not given.")] = None,
    data_dir: DataDir = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Read everything again, not only what changed since the last sync.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show how far it is.")] = False,
) -> None:
    """Ask Label Studio for what its events did not tell."""
    from ml_backend.cli.sync import sync_now  # noqa: PLC0415

    raise typer.Exit(sync_now(_settings(data_dir=data_dir), project, complete=complete, watch=watch))


@app.command()
def versions(
    project: Project = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """List the versions of a project, with their scores and why they serve or not."""
    from ml_backend.cli.show import show_versions  # noqa: PLC0415

    show_versions(_settings(data_dir=data_dir), project, as_json=as_json)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Its number or name, as `ml-backend versions` lists them.")],
    project: Project = None,
    data_dir: DataDir = None,
) -> None:
    """Let a version serve, whatever its scores; later ones are compared with it."""
    from ml_backend.cli.promotion import promote_version  # noqa: PLC0415

    promote_version(_settings(data_dir=data_dir), project, version)


@app.command()
def rollback(project: Project = None, data_dir: DataDir = None) -> None:
    """Let the version serve that served before; again, the one before that."""
    from ml_backend.cli.promotion import roll_back  # noqa: PLC0415

    roll_back(_settings(data_dir=data_dir), project)


Projects = Annotated[
    list[int] | None, typer.Option("--project", help="The project's number in Label Studio; may be given again.")
]


@app.command()
def connect(
    project: Projects = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every project that the key sees and the model supports.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(help="Where Label Studio reaches this backend.", show_default="found out"),
    ] = None,
    title: Annotated[str, typer.Option(help="What a new connection is called until its first version.")] = "ml-backend",
    extra_params: Annotated[
        str | None, typer.Option(help="The connection's extra params, as JSON.", show_default="left as they are")
    ] = None,
    active_learning: Annotated[
        bool, typer.Option("--active-learning", help="Hand out the most useful tasks first: uncertainty sampling.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Connect projects in Label Studio, webhook and credentials included, and see an event arrive.

    Needs LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, and a backend that runs. Twice changes nothing.
    """
    from ml_backend.cli.connect import connect_projects  # noqa: PLC0415

    raise typer.Exit(
        connect_projects(
            _settings(data_dir=data_dir),
            project or [],
            every=every,
            url=url,
            title=title,
            extra_params=extra_params,
            active_learning=active_learning,
        )
    )


@app.command()
def disconnect(
    project: Projects = None,
    every: Annotated[bool, typer.Option("--all", help="Every project that the key sees.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Undo connect. The training set and the versions stay."""
    from ml_backend.cli.connect import disconnect_projects  # noqa: PLC0415

    raise typer.Exit(disconnect_projects(_settings(data_dir=data_dir), project or [], every=every))


@app.command("export")
def export_project(
    project: Project = None,
    data_dir: DataDir = None,
    to: Annotated[str, typer.Option("--to", help="The file to write; - is standard output.")] = "-",
) -> None:
    """Write a project's state as JSON lines: training set, counters, history, what serves. Versions are files."""
    from ml_backend.cli.transfer import export_state  # noqa: PLC0415

    export_state(_settings(data_dir=data_dir), project, to)


@app.command("import")
def import_project(
    source: Annotated[str, typer.Argument(metavar="FILE", help="What export wrote; - is standard input.")],
    data_dir: DataDir = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Throw away what is known of the project here already.")
    ] = False,
) -> None:
    """Read what export wrote, whole or not at all."""
    from ml_backend.cli.transfer import import_state  # noqa: PLC0415

    import_state(_settings(data_dir=data_dir), source, replace=replace)


@app.command()
def quickstart(
    port: Port = None,
    label_studio_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Label Studio.")] = 8080,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Where everything is kept.")] = Path("quickstart"),
) -> None:
    """See it work: a backend, a Label Studio and a project to label, all on this machine. Needs uv.

    A second start goes on where the first one ended. Nothing is opened, and nothing of yours is touched.
    """
    from ml_backend.cli.quickstart import quick_start  # noqa: PLC0415

    # What the environment says of another installation.
    theirs = {"redis_url": None, "host": "127.0.0.1", "url": None, "store": None, "model": None, "insecure": False}
    settings = _settings(port=port, data_dir=data_dir).model_copy(update=theirs)
    raise typer.Exit(quick_start(settings, label_studio_port))


@app.command()
def doctor(
    project: Annotated[
        list[int] | None,
        typer.Option("--project", help="A project's number in Label Studio.", show_default="all that are known here"),
    ] = None,
    data_dir: DataDir = None,
    model: Annotated[
        str | None, typer.Option(help="The model to judge label configs by.", show_default="the backend's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Look for what is wrong, and say what to do about it. The exit status is 1 when there is a problem.

    Run it with the environment and --data-dir of the backend. It changes nothing.
    """
    from ml_backend.cli.doctor import show_doctor  # noqa: PLC0415

    raise typer.Exit(show_doctor(_settings(data_dir=data_dir, model=model), project or [], as_json=as_json))


def main() -> None:
    """Run the command line; what goes wrong on purpose is one line, without a traceback."""
    try:
        app()
    except RefitError as error:
        said = Text.assemble(("error:", "bold red"), f" {error}")
        if isinstance(error, Unavailable):
            said.append(
                "\nStart the backend (ml-backend start). If it runs, name its folder (--data-dir) or its REDIS_URL."
            )
        Console(stderr=True, soft_wrap=True).print(said)
        sys.exit(1)
