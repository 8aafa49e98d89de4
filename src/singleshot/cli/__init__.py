"""The command line: one file per command; this one puts them together and turns mistakes into one line."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from typing import Annotated, Any

import typer

from singleshot._version import __version__
from singleshot.cli.bench import bench
from singleshot.cli.common import STOPPED, hush_stdout
from singleshot.cli.data import data_app
from singleshot.cli.demo import demo
from singleshot.cli.detect import detect
from singleshot.cli.eval import evaluate_command
from singleshot.cli.explain import explain_command
from singleshot.cli.export import export_command
from singleshot.cli.import_ import import_command
from singleshot.cli.label import label_command
from singleshot.cli.mistakes import say_usage
from singleshot.cli.priors import priors_app
from singleshot.cli.push import push_command
from singleshot.cli.report import report_command
from singleshot.cli.serve import serve
from singleshot.cli.train import TrainCommand, train
from singleshot.devices import read_launch
from singleshot.errors import ConfigError, OtherProcessError, SingleshotError, printable
from singleshot.files import DISK_FAULTS

app = typer.Typer(
    name="singleshot",
    help="SSD (Single Shot MultiBox Detector): train on your own images, evaluate, detect.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=TrainCommand)(train)
app.command(name="eval")(evaluate_command)
app.command()(detect)
app.command(name="explain")(explain_command)
app.command(name="import")(import_command)
app.command(name="export")(export_command)
app.command(name="push")(push_command)
app.command(name="report")(report_command)
app.command()(serve)
app.command(name="label")(label_command)
app.command()(bench)
app.command()(demo)
app.add_typer(data_app, name="data")
app.add_typer(priors_app, name="priors")


def _flow(*groups: typer.Typer) -> None:
    """Have paragraphs of --help fill the terminal: as they stand, they would break where the source's lines end."""
    for command in (one for group in groups for one in group.registered_commands):
        paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n") if command.callback else []
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


_flow(app, data_app, priors_app)


def _version(value: bool) -> None:
    if value:
        print(f"singleshot {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """SSD (Single Shot MultiBox Detector): train on your own images, evaluate, detect."""
    if context.invoked_subcommand not in (None, "train") and "TORCHELASTIC_RUN_ID" in os.environ:
        _refuse_several(f"singleshot {context.invoked_subcommand}")


def _refuse_several(command: str) -> None:
    """Raise where torchrun started several processes, each of which would do all of the work and write the same files:
    ConfigError in the first, OtherProcessError in the others."""
    launch = read_launch()
    if launch.size > 1:
        error = OtherProcessError if launch.rank else ConfigError
        raise error(
            f"{command}: its work is not shared among torchrun's {launch.size} processes (train's is); start it alone"
        )


# What a wrong option raises; typer exports its subclasses only.
_UsageError: Any = typer.BadParameter.__mro__[1]


def _show_our_log() -> None:
    """Print what singleshot logs on standard error; what other packages have to say stays with them."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("singleshot: %(message)s"))
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        """Of what is noted on a data set, which is read for each of its splits, each line once."""
        if record.levelno != logging.INFO or not record.name.startswith("singleshot.datasets"):
            return True
        size = len(said)
        said.add(record.getMessage())
        return len(said) > size

    handler.addFilter(is_new)
    ours = logging.getLogger("singleshot")
    ours.handlers = [handler]
    ours.setLevel(logging.INFO)


def main() -> None:
    """Entry point of `singleshot`: exit code 0 done, 2 the user's input is wrong, 130 stopped, 1 our fault."""
    _show_our_log()
    try:
        code = app(standalone_mode=False)
    except OtherProcessError:
        sys.exit(2)
    except SingleshotError as error:
        print(f"singleshot: {printable(error, 4000)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except _UsageError as error:
        message = say_usage(error)
        if "\n" in message:  # a command without its arguments: the help itself
            print(message, file=sys.stderr)
        else:
            command = error.ctx.command_path if error.ctx is not None else "singleshot"
            print(f"singleshot: {printable(message)} See: {command} --help", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("singleshot: stopped", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:
        hush_stdout()  # the reader of our output went away (`| head`): not an error
        sys.exit(0)
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        where = "" if error.filename is None else f"{printable(error.filename)}: "
        print(f"singleshot: {where}cannot write ({error.strerror}); make room, or give another --out", file=sys.stderr)
        sys.exit(2)
    if code == STOPPED:  # typer turns a Ctrl-C that no command caught into this code, without a word
        print("singleshot: stopped", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)
