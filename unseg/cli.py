"""The `unseg` command: one line for whatever goes wrong, from the first moment on.

Nothing else is imported before `main` has taken care of Ctrl-C; the commands are in `unseg.commands.application`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from unseg.compute import interrupts

EXIT_USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    arguments: None takes those of the process, which is then this command's: an interrupt may end it at once, and
    nothing is to follow. 0 all done; 1 something was not protected, or does not hold; 2 user error; 130 Ctrl-C; 143
    terminated.
    """
    if arguments is None:
        interrupts.end_at_once()
    code = _in_one_line(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        interrupts.ignore_from_now_on()
    return code


def _in_one_line(arguments: Sequence[str]) -> int:
    from unseg.commands.application import run
    from unseg.commands.paths import told_of_file
    from unseg.commands.streams import standard_streams
    from unseg.errors import UserError
    from unseg.storage.files import printable

    with standard_streams():
        try:
            code = run(arguments)
            sys.stdout.flush()
        except UserError as error:
            print(printable(f"unseg: error: {error}"), file=sys.stderr)  # file names may hold any byte
            code = EXIT_USER_ERROR
        except (OSError, UnicodeEncodeError) as error:  # of files that are asked for deep inside a command
            print(printable(f"unseg: error: {told_of_file(error)}"), file=sys.stderr)
            code = EXIT_USER_ERROR
        except KeyboardInterrupt as stop:
            print("unseg: interrupted", file=sys.stderr)
            code = interrupts.exit_code(stop)
    return code


if __name__ == "__main__":
    sys.exit(main())
