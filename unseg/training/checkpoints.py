"""The output folder of a training run: its checkpoints, written and read so that a run survives whatever stops it.

A checkpoint is `checkpoints/step_00000500.pt` (what `torch.save` writes: tensors, numbers, strings) and, written
after it, `step_00000500.json` with the file's sha256, the step and the run's settings. Without its JSON a checkpoint
is not whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout

from unseg.compute.progress import Progress
from unseg.errors import UserError
from unseg.method.config import RETIRED
from unseg.storage.checkpoint_files import read_checkpoint, write_checkpoint
from unseg.storage.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, read_text, sha256_of, write_durably
from unseg.storage.locks import Held
from unseg.storage.settings_diff import differences

GENERATOR_FILE = "generator.safetensors"
CHECKPOINTS = "checkpoints"
LOCK_FILE = ".training.lock"
LOCK_WITHIN = 10.0  # seconds: a killed run's helpers may hold the lock a moment longer than the run itself
DAMAGED = ".damaged"
REMEDY = "use another --output"  # where a checkpoint is none, or of another run
Settings = dict[str, Any]


class RunFolder:
    """Writes and reads the checkpoints of an output folder; the process that writes locks it by entering a context.

    keep: how many checkpoints stay; older ones are removed.
    """

    def __init__(self, output: Path, keep: int = 3) -> None:
        if keep < 1:
            raise UserError(f"--keep {keep}: give a whole number from 1")
        self.output = output
        self.keep = keep
        self._folder = output / CHECKPOINTS
        self._lock = FileLock(output / LOCK_FILE)
        self._held: Held | None = None

    def __enter__(self) -> RunFolder:
        """Makes the folder and locks it. UserError where another training holds it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=LOCK_WITHIN)
        except Timeout:
            raise UserError(
                f"--output {self.output}: another process trains into it; wait for it, or use another folder"
            ) from None
        except OSError as error:
            raise UserError(
                f"--output {self.output}: cannot be written ({error.strerror or error}); check the path and permissions"
            ) from None
        for path in self._folder.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
            path.unlink()  # of a run that was killed
        self._held = Held.of(self.output, self.output / LOCK_FILE, "--output")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def check_held(self) -> None:
        """Raises a UserError where the folder was removed, renamed or replaced since the training entered it."""
        if self._held is not None:
            self._held.check()

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that have both files, the newest first."""
        found = [path.stem for path in self._folder.glob("step_*.json") if path.with_suffix(".pt").exists()]
        return sorted((int(stem[len("step_") :]) for stem in found if stem[len("step_") :].isdigit()), reverse=True)

    def path(self, step: int) -> Path:
        """Returns where the checkpoint of a step is."""
        return self._folder / f"step_{step:08}.pt"

    def save(self, state: dict[str, Any], step: int, settings: Settings) -> Path:
        """Writes a checkpoint, removes those that are no longer among the last `keep`, and returns its path."""
        self.check_held()
        path = self.path(step)
        digest = write_checkpoint(path, state)
        facts = {"step": step, "sha256": digest, "settings": settings, "torch": torch.__version__}
        write_durably(path.with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())
        for old in self.steps()[self.keep :]:
            self.path(old).with_suffix(".json").unlink(missing_ok=True)  # first: without it the rest counts for nothing
            self.path(old).unlink(missing_ok=True)
        return path

    def save_failure(self, state: dict[str, Any], step: int, rank: int) -> Path:
        """Writes what led to a failed step, and returns the file. It is no checkpoint: no run goes on from it."""
        path = self.output / f"failed_step_{step:08}_process_{rank}.pt"
        write_checkpoint(path, state)
        return path

    def newest(self, settings: Settings, progress: Progress) -> Path | None:
        """Returns the newest checkpoint that is whole, None where there is none at all.

        UserError where it belongs to a run with other settings, where no checkpoint is whole, or where the folder holds
        weights that no checkpoint accounts for. `progress` is told of a damaged checkpoint, which is set aside.
        """
        steps = self.steps()
        for step in steps:
            fault = self._fault(step)
            if fault is None:
                self._check_settings(step, settings)
                return self.path(step)
            progress.say(
                f"{self.path(step)}: {fault}; set aside as {self.path(step).name}{DAMAGED}, the one before is used"
            )
            for path in (self.path(step), self.path(step).with_suffix(".json")):
                path.replace(path.with_name(path.name + DAMAGED))
        if steps or any(self._folder.glob(f"*{DAMAGED}")):
            raise UserError(
                f"--output {self.output}: none of its checkpoints can be read; start again with another --output"
            )
        if (self.output / GENERATOR_FILE).exists():
            raise UserError(
                f"--output {self.output}: holds {GENERATOR_FILE} but no checkpoint to go on from; use another folder"
            )
        return None

    def _fault(self, step: int) -> str | None:
        """Returns what is wrong with a checkpoint's files, None where they are whole."""
        path = self.path(step)
        try:
            facts = json.loads(read_text(path.with_suffix(".json")))
        except (ValueError, OSError) as error:
            return f"cannot be read ({error})"
        described = isinstance(facts, dict) and isinstance(facts.get("settings"), dict)
        if not described or sha256_of(path) != facts.get("sha256"):
            return "is damaged (its content is not what was written)"
        return None

    def _check_settings(self, step: int, settings: Settings) -> None:
        """Raises UserError where a checkpoint belongs to a run with other settings."""
        theirs = json.loads(read_text(self.path(step).with_suffix(".json")))["settings"]
        for name, value in RETIRED.items():
            if theirs.get(name) == value:
                del theirs[name]
        if changed := "; ".join(differences(theirs, settings)):
            raise UserError(
                f"--output {self.output}: holds a run made with other settings ({changed}); go on with the same, or "
                "use another folder"
            )


def read_state(path: Path) -> dict[str, Any]:
    """Returns what `RunFolder.save` wrote, on the CPU; code in a file is not run."""
    try:
        return read_checkpoint(path, REMEDY)
    except FileNotFoundError:
        raise UserError(
            f"{path}: not found on this machine; --output must lie on a disk that all machines share"
        ) from None
