"""The `likeness` program: nouns, then verbs. Each noun's commands live in the module of its name beside this one.

Exit codes: 0 done; 1 a bug (traceback); 2 wrong input or a failure with a known remedy (one line); 3 the work ended but
some inputs were quarantined and --strict was given; 130 interrupted; 143 stopped by SIGTERM after saving.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module

import typer
from rich.console import Console

from infra.errors import LikenessError

# noun -> module; imported only when the noun is used, since torch, Ray and MLflow take seconds to import
NOUNS = ("data", "train", "generate", "evaluate", "methods", "model", "assets", "job", "ui", "demo")


def new_app(nouns: Iterable[str] = ()) -> typer.Typer:
    """The program with the commands of some nouns."""
    app = typer.Typer(
        name="likeness", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )

    @app.callback()  # without one, typer takes an app with one command for that command itself
    def _likeness() -> None:
        """From a folder of talking videos or portraits to a trained, registered, reproducible model."""

    for noun in nouns:
        _load(app, noun)
    return app


def _load(app: typer.Typer, noun: str) -> None:
    module = import_module(f"pipelines.cli.{noun}")
    if hasattr(module, "app"):
        app.add_typer(module.app, name=noun)
    else:
        app.command(noun, **getattr(module, "OPTIONS", {}))(module.command)


def main() -> None:
    """Entry point of the console script."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        if asked is not None and asked not in NOUNS:
            near = get_close_matches(asked, NOUNS, 1)
            hint = f"did you mean {near[0]}?" if near else ""
            raise LikenessError(f"unknown command {asked!r}", allowed=", ".join(NOUNS), fix=hint)
        app = new_app([asked] if asked else NOUNS)
        sys.exit(app(standalone_mode=False) or 0)
    except LikenessError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {error}", markup=False)
        sys.exit(error.exit_code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())  # type: ignore[attr-defined]
            sys.exit(0)
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's own usage errors
            Console(stderr=True, soft_wrap=True, highlight=False).print(
                f"error: {error.format_message().rstrip('.')}; see likeness {asked or ''} --help".replace("  ", " "), markup=False
            )
            sys.exit(2)
        raise


if __name__ == "__main__":
    main()
