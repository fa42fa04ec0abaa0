"""From images on disk to their unlearnable versions beside them: decoding threads → generator → encoding threads.

A bounded number of pixels is on its way at a time; results come in the order of the jobs. What is written does not
depend on the order or grouping of the inputs, since every batch has the same shape (filled with zeros), nor on the
number of cores, since small networks run on one thread an image.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from unseg.compute.in_flight import PIXELS_IN_FLIGHT
from unseg.compute.threads import single_threaded_pool, worker_threads
from unseg.protecting.manifest import Entry, Status, cannot_go_on
from unseg.protecting.noise_source import NoiseSource
from unseg.protecting.objects import Objects, Refused
from unseg.protecting.one_image import ImageMaker, Job, Loaded
from unseg.protecting.settings import ProtectSettings
from unseg.protecting.stack_maker import StackMaker
from unseg.storage import image_headers, image_limits
from unseg.storage.files import blocks_of, link_on_the_way, open_for_reading, sha256_of, temporary_in, write_blocks
from unseg.storage.image_limits import ImageError
from unseg.storage.locks import Held, writing_into

# --unmasked → what becomes of an image that nothing shows an object in; "whole" protects it before that is asked.
UNMASKED: dict[str, Status] = {"skip": "skipped", "copy": "copied", "fail": "failed", "whole": "failed"}
STOPS_THE_RUN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # on a disk that takes nothing more


@dataclass(frozen=True)
class Result:
    """What became of an input. kept: an earlier run had finished it."""

    entry: Entry
    kept: bool = False


class Pipeline:
    """Everything that is the same for all images of a run.

    source: of the noise. workers: threads that decode and encode. held: the output folder that the run has locked; None
    where nothing is written.
    """

    def __init__(
        self,
        settings: ProtectSettings,
        source: NoiseSource,
        out: Path,
        objects: Objects,
        workers: int,
        held: Held | None = None,
    ) -> None:
        self.settings, self.source, self.out, self.objects = settings, source, out, objects
        self.workers, self.held = workers, held
        self.maker, self.stacks = ImageMaker(settings, source, objects), StackMaker(settings, source, objects)
        self.generators = workers if source.side_by_side else 1
        self.torch_threads = 1 if source.side_by_side or source.device_type != "cpu" else workers

    def pool(self) -> AbstractContextManager[ThreadPoolExecutor]:
        """Returns the decoding and encoding threads."""
        return single_threaded_pool(self.workers)

    def generator_threads(self) -> ThreadPoolExecutor:
        """Returns the threads that ask the network."""
        return worker_threads(self.generators, self.torch_threads)

    def results(self, jobs: Iterable[Job], pool: Executor) -> Generator[Result, None, None]:
        """Yields the results in the order of the jobs, while later jobs are being worked on.

        A job is taken from `jobs` only once there is room for it, and nothing of it is written before.
        """
        window: deque[tuple[int, Future[list[Result | Future[Result]]]]] = deque()
        depth = self.generators + 2 + 2 * self.workers // self.source.batch_size
        generators = self.generator_threads()

        def oldest() -> Iterator[Result]:
            _, future = window[0]
            for result in future.result():
                yield result.result() if isinstance(result, Future) else result
            window.popleft()

        try:
            for group, pixels in self._groups(jobs):
                while window and (len(window) >= depth or sum(item[0] for item in window) + pixels > PIXELS_IN_FLIGHT):
                    yield from oldest()
                loads = [pool.submit(self.load, job) for job in group]
                window.append((pixels, generators.submit(self._generate, loads, pool)))
            while window:
                yield from oldest()
        finally:
            generators.shutdown(wait=True, cancel_futures=True)
            pool.shutdown(wait=True, cancel_futures=True)

    # --- inputs

    def _groups(self, jobs: Iterable[Job]) -> Iterator[tuple[list[Job], int]]:
        """Yields the jobs of each batch, and their pixels.

        Large photographs make small groups: what does not depend on the company in a batch does not depend on their
        number either.
        """
        group: list[Job] = []
        pixels = 0
        for job in jobs:
            own = self._pixels_of(job)
            if group and pixels + own > PIXELS_IN_FLIGHT:
                yield group, pixels
                group, pixels = [], 0
            group.append(job)
            pixels += own
            if len(group) == self.source.batch_size:
                yield group, pixels
                group, pixels = [], 0
        if group:
            yield group, pixels

    def _pixels_of(self, job: Job) -> int:
        try:
            if job.kind is not None:
                return min(os.stat(job.sample.image).st_size, PIXELS_IN_FLIGHT)
            data = self.objects.image_bytes(job.sample)
        except (ImageError, OSError):
            return 0
        return image_headers.pixel_count(job.sample.image if data is None else io.BytesIO(data))

    def _sha256_of_input(self, job: Job) -> str | None:
        data = self.objects.image_bytes(job.sample)
        return sha256_of(job.sample.image) if data is None else hashlib.sha256(data).hexdigest()

    # --- in the decoding threads

    def load(self, job: Job) -> Loaded | Result:
        """Returns a decoded input, or what became of it where nothing is left to do."""
        try:
            if job.earlier is not None and self._is_done(job, job.earlier):
                if self.settings.keep_times:
                    self._set_times(job, job.planned.output)
                return Result(replace(job.earlier, claims=None), kept=True)
            self._check_untouched(job)
            if job.kind is not None:
                return self._stacked(job)
            return self.maker.decode(job, self.may_be_whole(job))
        except Refused as refused:
            return self._unprotected(job, refused)
        except ImageError as error:
            return self._unprotected(job, Refused("failed", error.reason))
        except MemoryError:
            return self._unprotected(job, Refused("failed", "not enough memory to decode it"))

    def may_be_whole(self, job: Job) -> bool:
        """Returns whether an input without an object may be protected whole: no earlier run knew an object in it.

        The noise on objects protects more, and what said where they are may be gone for once.
        """
        earlier = job.earlier
        if earlier is None or earlier.output is None or earlier.status == "copied":
            return True
        return earlier.object is not None or not os.path.lexists(self.out / earlier.output)

    def _stacked(self, job: Job) -> Result:
        """Protects a file of planes, which is read and written part by part, and returns what became of it."""
        with temporary_in(self.out) as whole:
            try:
                facts = self.stacks.make(job, whole, self.may_be_whole(job))
            except OSError as error:
                if error.errno in STOPS_THE_RUN:
                    raise cannot_go_on(self.out, error) from error
                raise Refused("failed", f"cannot be written: {error.strerror or error}") from error
            with open_for_reading(whole) as file:
                sha256 = self._write(job.planned.output, blocks_of(file), job)
        entry = replace(facts, output_sha256=sha256)
        self._remove_replaced(job, entry)
        return Result(entry)

    def _is_done(self, job: Job, earlier: Entry) -> bool:
        """Returns whether an earlier run finished this very input, and its output is still what was written."""
        return (
            earlier.is_written
            and earlier.output == job.planned.output
            and link_on_the_way(self.out, job.planned.output) is None
            and earlier.input_sha256 == self._sha256_of_input(job)
            and earlier.output_sha256 == sha256_of(self.out / job.planned.output)
            and self.objects.is_same(job.sample, earlier)
            and not self._lacks_quality(earlier)
        )

    def _check_untouched(self, job: Job) -> None:
        """Raises Refused where somebody changed what an earlier run wrote for an input: it is theirs now."""
        earlier = job.earlier
        if earlier is None or earlier.output is None or earlier.output_sha256 is None:
            return
        there = sha256_of(self.out / earlier.output)
        if earlier.output in (job.planned.output, job.planned.copy) and there not in (None, earlier.output_sha256):
            raise Refused(
                "failed",
                f"{earlier.output} in the output changed since it was written: move it away, and the same command"
                " makes it anew",
            )

    def _lacks_quality(self, earlier: Entry) -> bool:
        """Returns whether measures are asked for that an earlier run did not take.

        An image that stayed as it was has none, nor has a file of planes.
        """
        return self.settings.quality and earlier.kind is None and earlier.psnr is not None and earlier.delta_e is None

    def _set_times(self, job: Job, name: str) -> None:
        try:
            os.utime(self.out / name, ns=_times(job.sample.image))
        except OSError as error:
            raise Refused("failed", f"its time stamp cannot be set: {error.strerror or error}") from error

    def _unprotected(self, job: Job, refused: Refused) -> Result:
        """Returns the line of an image that is not protected, after it was copied where that is what happens to it."""
        earlier, line = job.earlier, self.foreseen_line(job, refused)
        if line.status == "copied":
            try:
                return Result(self._copy(job, refused.reason))
            except (ImageError, Refused) as error:
                line = Entry(*job.key, "failed", reason=f"{refused.reason}; and copying it failed: {error.reason}")
        # What an earlier run wrote for it stays, and stays ours.
        there = [name for name in (earlier.owned if earlier else ()) if os.path.lexists(self.out / name)]
        entry = line
        if earlier and earlier.output in there:
            entry = replace(entry, output=earlier.output, output_sha256=earlier.output_sha256, object=earlier.object)
            there.remove(earlier.output)
        return Result(replace(entry, claims=tuple(sorted(set(there))) or None))

    def foreseen_line(self, job: Job, refused: Refused) -> Entry:
        """Returns the line that an image gets which is not protected; nothing is written.

        Where an earlier run protected it, no copy takes that version's place, and nothing calls it left out.
        """
        status, reason, earlier = UNMASKED[self.settings.unmasked], refused.reason, job.earlier
        if refused.status == "failed":
            return Entry(*job.key, "failed", reason=reason)
        if earlier and earlier.output and os.path.lexists(self.out / earlier.output):
            if earlier.status != "copied" and sha256_of(self.out / earlier.output) != self._sha256_of_input(job):
                remedy = f"put back what said where its object is, or remove {earlier.output} from the output"
                return Entry(*job.key, "failed", reason=f"{reason}, but an earlier run protected it: {remedy}")
            status = "copied" if status == "skipped" else status  # it is there, and its line goes on saying so
        return Entry(*job.key, status, reason=reason)

    def _copy(self, job: Job, reason: str) -> Entry:
        name = job.planned.copy
        if name is None:
            raise ImageError(self.out / job.sample.name, f"{job.sample.name} exists in the output folder")
        there = None if link_on_the_way(self.out, name) else sha256_of(self.out / name)
        if there is not None and there == self._sha256_of_input(job):
            sha256 = there
            if self.settings.keep_times:
                self._set_times(job, name)
        else:
            sha256 = self._write(name, self._input_blocks(job), job)
        entry = Entry(
            *job.key,
            "copied",
            output=name,
            reason=reason,
            input_sha256=sha256,
            output_sha256=sha256,
            prompt=self.objects.prompt,
        )
        self._remove_replaced(job, entry)
        return entry

    def _input_blocks(self, job: Job) -> Iterator[bytes]:
        data = self.objects.image_bytes(job.sample)
        if data is not None:
            yield data
            return
        with image_limits.open_regular(job.sample.image, job.sample.within) as file:
            yield from blocks_of(file)

    # --- in the generator's thread

    def _generate(self, loads: Sequence[Future[Loaded | Result]], pool: Executor) -> list[Result | Future[Result]]:
        results = [load.result() for load in loads]
        prepared = [result.prepared for result in results if isinstance(result, Loaded)]
        noises = iter(self.source.noises(prepared)) if prepared else iter(())
        return [
            pool.submit(self._save, result, next(noises)) if isinstance(result, Loaded) else result
            for result in results
        ]

    # --- in the encoding threads

    def _save(self, loaded: Loaded, noise: Any) -> Result:
        job = loaded.job
        try:
            data, facts = self.maker.make(loaded, noise)
            sha256 = self._write(job.planned.output, [data], job)
        except Refused as refused:
            return self._unprotected(job, refused)
        except MemoryError:
            return self._unprotected(job, Refused("failed", "not enough memory to protect it"))
        entry = replace(facts, output_sha256=sha256)
        self._remove_replaced(job, entry)
        return Result(entry)

    def _write(self, name: str, blocks: Iterable[bytes], job: Job) -> str:
        """Writes an output whole, waits for the disk and returns the sha256.

        A disk that takes nothing more is a UserError, which ends the run; any other failure is this image's alone.
        """
        link = link_on_the_way(self.out, str(PurePosixPath(name).parent))
        if link is not None:
            raise Refused("failed", f"{link} in the output is a link, which is not followed")
        try:
            times = _times(job.sample.image) if self.settings.keep_times else None
            with writing_into(self.held):
                return write_blocks(self.out / name, blocks, durable=True, times=times, within=self.out)
        except OSError as error:
            if error.errno in STOPS_THE_RUN:
                raise cannot_go_on(self.out, error) from error
            raise Refused("failed", f"cannot be written: {error.strerror or error}") from error

    def _remove_replaced(self, job: Job, entry: Entry) -> None:
        """Removes what an earlier run wrote for this input under another name, if it is still exactly that."""
        earlier = job.earlier
        if earlier and earlier.output and earlier.output != entry.output and earlier.output_sha256:
            replaced = self.out / earlier.output
            if link_on_the_way(self.out, earlier.output) is None and sha256_of(replaced) == earlier.output_sha256:
                replaced.unlink()


def _times(path: Path) -> tuple[int, int]:
    """Returns when a file was last read and changed, in ns."""
    found = os.stat(path)
    return found.st_atime_ns, found.st_mtime_ns
