"""Carries a study out: every condition, network and seed through one trainer, with the results in one JSON file.

OUT/results.json holds a run for each (task, network, condition, seed) and is rewritten after each run. A run that is
there with equal settings is not repeated. A folder with runs of the same task under another schedule, size or data is
refused, since they could not be compared. OUT/curves.jsonl gains a line for each evaluation, for watching a run.
OUT/checkpoints holds the state of a run until it is done, OUT/examples pictures of the first seed's runs.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace

import torch

from unseg.compute.device import choose_device
from unseg.compute.distributed import World
from unseg.compute.progress import SILENT, Progress
from unseg.evaluation.condition_names import without_defence
from unseg.evaluation.condition_sets import ConditionSet, ConditionSets
from unseg.evaluation.defences.early import EARLY, NOTE, early
from unseg.evaluation.example_files import slug, write_changed, write_examples
from unseg.evaluation.learner import Learner, Metrics
from unseg.evaluation.results import REPLACED, Json, Results, results_folder, shown_metric
from unseg.evaluation.study import RunName, RunOptions, Study
from unseg.evaluation.trainer import Checkpoint, Evaluation, Trained, train
from unseg.storage.locks import Held, writing_into


def run_study(study: Study, world: World | None = None, progress: Progress = SILENT) -> Json:
    """Runs what results.json does not hold yet and returns its content; no other process may write there meanwhile.

    The order is seed by seed, so that what is there after an interruption is as many whole comparisons as possible.
    progress: of the first process.
    """
    with results_folder(study.out, world is None or world.leads) as held:
        return carry_out(study, held, world, progress)


def carry_out(study: Study, held: Held | None, world: World | None = None, progress: Progress = SILENT) -> Json:
    """Does what `run_study` does, for a caller that holds the folder. held: as it does; None: another process does."""
    results = results_of(study, held)
    going = _Going(study, results, world or World(device=choose_device(study.device)), progress)
    sets = ConditionSets(study, progress)
    for seed, condition in itertools.product(study.seeds, study.conditions):
        for network in study.networks:
            going.take(RunName(network, condition, seed), sets)
        sets.release(condition, seed)
    return results.content()


def results_of(study: Study, held: Held | None = None) -> Results:
    """Returns the results of a study; UserError where its folder holds runs that cannot be compared with its own."""
    facts = {"task": study.task, "train_images": len(study.train), "test_images": len(study.test), **study.facts}
    networks = {network: study.of_network(network) for network in study.networks}
    return Results(study.out, study.shared, facts, networks, held)


@dataclass(frozen=True)
class _Going:
    """A study that is being carried out."""

    study: Study
    results: Results
    world: World
    progress: Progress

    def take(self, run: RunName, sets: ConditionSets) -> None:
        """Runs `run` unless results.json holds it."""
        settings = self.study.settings_of(run)
        path = self.study.out / "checkpoints" / f"{slug(run.file(self.study.task))}.pt"
        checkpoint = Checkpoint(path, settings, self.study.checkpoint_every, self.results.held)
        # All processes do as the first one reads the file, which another process may write meanwhile.
        if self.world.from_first("held" if self.world.leads and self.results.holds(settings) else ""):
            self.progress.say(f"{run}: done before, kept")
        elif self.world.from_first("told" if self.world.leads and self._tell_by_curve(run, settings) else ""):
            self.progress.say(f"{run}: the best test of the same training, which is done")
        else:
            self._run(run, sets.get(run.condition, run.seed), checkpoint)
        if self.world.leads:
            checkpoint.remove()

    def _tell_by_curve(self, run: RunName, settings: Json) -> bool:
        """Records a run whose only difference from a recorded one is which of its tests counts; returns whether it did.

        The trainings of `X` and `X+early` are the same to the last number.
        """
        whole = replace(run, condition=without_defence(run.condition, EARLY))
        result = None if whole == run else self.results.result_of(self.study.settings_of(whole))
        if result is None:
            return False
        final = early().choose([point["score"] for point in result["curve"]])
        self.results.add(settings, {**result, "final": final, "notes": [*result["notes"], NOTE]})
        return True

    def _run(self, run: RunName, made: ConditionSet, checkpoint: Checkpoint) -> None:
        """Trains one network on one condition and records it."""
        study, settings = self.study, checkpoint.settings
        told = self.results.differences_of(settings) if self.world.leads else []
        if told:
            self.progress.say(
                f"{run}: was measured with other images ({'; '.join(told)}) and is measured anew; {REPLACED} keeps"
                " what was there"
            )
        options = RunOptions(run.seed, made.left, self.progress)
        learner = study.make(run.network, made.images, made.test, options)

        def record(evaluation: Evaluation) -> None:
            self.results.log({"task": study.task, **asdict(run), **asdict(evaluation)})
            self.progress.say(
                f"{run}, step {evaluation.step}: {shown_metric(learner.metric)} {evaluation.score:.4f}, "
                f"training loss {evaluation.train_loss:.4f}"
            )

        trained = train(
            learner,
            study.schedule,
            seed=run.seed,
            world=self.world,
            checkpoint=checkpoint,
            record=record,
            progress=self.progress,
            what=str(run),
        )
        if self.world.leads:
            self.results.add_facts(_facts_of(learner), of_clean=run.condition == "clean")
            self.results.add(settings, self._recorded(run, made, learner, trained))
        self.world.barrier()

    def _recorded(self, run: RunName, made: ConditionSet, learner: Learner, trained: Trained) -> Json:
        unread = made.unread()
        if unread:
            with self.progress.bar(f"measuring the images of {run.condition}", unread) as tick:
                quality, stored = made.quality(tick)
        else:
            quality, stored = made.quality()
        device = self.world.device
        result: Json = {
            "metric": learner.metric,
            "final": learner.counted([point.score for point in trained.curve]),
            "best": trained.best,
            "train_loss": trained.train_loss,
            "trivial": learner.trivial,
            "metrics": {**trained.metrics, **self._probed(run, trained)},
            "curve": [asdict(point) for point in trained.curve],
            "train_images": learner.train_count,
            "notes": list(learner.notes),
            "quality": asdict(quality) if quality else None,
            "stored": asdict(stored) if stored else None,
            "seconds": round(trained.seconds, 1),
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "processes": self.world.size,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        if run.seed == self.study.seeds[0]:
            with writing_into(self.results.held):
                result["examples"] = write_examples(self.study, run, learner, trained, device=device)
                if made.changed is not None:
                    result["training_examples"] = write_changed(self.study, run, made.images)
        return result

    def _probed(self, run: RunName, trained: Trained) -> Json:
        """Returns what the trained network answers to the study's probe."""
        if self.study.probe is None:
            return {}
        return self.study.probe(run, trained.network.eval(), self.world.device)


def _facts_of(learner: Learner) -> Json:
    """Returns what a learner adds to the facts of its task."""
    facts = {
        "metric": learner.metric,
        "trivial": learner.trivial,
        "absent_classes": absent_classes(learner.trivial),
    }
    if learner.majority is not None:
        facts["majority_class"] = learner.majority
    return facts


def absent_classes(trivial: Metrics) -> list[str]:
    """Returns the names of the classes that the test set does not show.

    Their value is None in every metric by class (`class_…`), whatever the answer is.
    """
    by_class = [values for key, values in trivial.items() if key.startswith("class_") and isinstance(values, dict)]
    return list(dict.fromkeys(name for values in by_class for name, value in values.items() if value is None))
