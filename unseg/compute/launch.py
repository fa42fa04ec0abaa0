"""`torchrun`, with failures told in one line: `python -m unseg.compute.launch [options of torchrun] train.py …`.

torchrun itself answers every failure with a traceback of its own, which buries what the process that failed has said.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unseg.compute.interrupts import EXIT_SIGNAL, LAUNCHER, end_at_once

if TYPE_CHECKING:  # torch is imported once Ctrl-C is taken care of
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

EXIT_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs torchrun and returns the exit code of the process that failed first, 0 where none did."""
    end_at_once()  # until torchrun hears signals itself
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    logging.disable(logging.CRITICAL)  # of this process, which does nothing else
    told = Path(tempfile.gettempdir(), f"unseg-told-{secrets.token_hex(8)}")
    os.environ[LAUNCHER] = str(told)
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        return _tell(list(error.failures.items()))
    except SignalException as error:  # the processes were sent it, too, maybe before they could tell anything
        if not told.exists():
            print("unseg: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return EXIT_SIGNAL + error.sigval
    except (RendezvousError, ValueError, RuntimeError) as error:
        print(
            f"unseg: error: the processes could not be started: {str(error).splitlines()[0]}; check NNODES, NODE_RANK"
            " and RDZV_ENDPOINT",
            file=sys.stderr,
        )
        return EXIT_ERROR
    finally:
        told.unlink(missing_ok=True)
    return 0


def _tell(failures: list[tuple[int, ProcessFailure]]) -> int:
    """Prints what the processes could not say themselves, and returns the exit code of the first failure."""
    from unseg.compute.distributed import EXIT_PEER_FAILED

    silent = {EXIT_PEER_FAILED, -signal.SIGTERM, EXIT_SIGNAL + signal.SIGTERM}  # stopped by another's failure
    causes = [(rank, failure) for rank, failure in failures if failure.exitcode not in silent]
    if not causes:
        print(
            "unseg: stopped, because a process failed on another machine or the processes were ended from outside;"
            " the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return EXIT_PEER_FAILED
    rank, cause = causes[0]
    if cause.exitcode < 0:
        name = signal.Signals(-cause.exitcode).name
        hint = " (memory may have run out)" if name == "SIGKILL" else ""
        print(
            f"unseg: error: process {rank} was ended by {name}{hint}, so all were stopped; the same command goes on"
            " from the last checkpoint",
            file=sys.stderr,
        )
        return EXIT_SIGNAL - cause.exitcode
    return cause.exitcode


if __name__ == "__main__":
    sys.exit(main())
