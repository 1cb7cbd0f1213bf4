"""The study: does it stabilize, and when? Against other methods, on real data that needs no download.

    python research/study --plan              # what it will take
    python research/study                     # all of it; ended and started again, it goes on where it was
    python research/study --quick             # a miniature, to see that all works
    python research/study --report            # docs/study.md and its plots from the committed CSV files
    python research/study --questions spikes --repeat method=paper fault=1000/all/kept/125  # a cell again
    python research/study --scale gpu --device cuda        # what a machine without a GPU still owes

Needs `pip install 'steadynorm[study]'`. Rows go to research/study/results, one CSV file a question; those of other
scales to a folder beside it, and a GPU's to the same page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # `python research/study` knows the folder's inside only

from study import cost, machine, repeat, report  # noqa: E402
from study.plan import plan  # noqa: E402
from study.questions import QUESTIONS, SCALES  # noqa: E402
from study.runner import missing, work  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 130 ended by Ctrl-C, after which the same command goes on."""
    parser = argparse.ArgumentParser(prog="research/study", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", choices=[*SCALES], default="full")
    parser.add_argument("--quick", action="store_true", help="the same as --scale quick")
    parser.add_argument("--questions", default=",".join(QUESTIONS), help=f"of {', '.join(QUESTIONS)}; comma-separated")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each; 0: this process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder of the CSV files; default: results, results-quick, …")
    parser.add_argument(
        "--page",
        type=Path,
        help="where the report goes; default: docs/study.md, of the quick scale or with --out beside the rows",
    )
    parser.add_argument("--plan", action="store_true", help="print trials and time, and run nothing")
    parser.add_argument("--report", action="store_true", help="write the report from what is there, and run nothing")
    parser.add_argument(
        "--repeat",
        nargs="+",
        metavar="FIELD=VALUE",
        help="run again what the rows with these values say, print each score beside its row, and write nothing",
    )
    options = parser.parse_args(arguments)

    scale = SCALES["quick" if options.quick else options.scale]
    unknown = [name for name in options.questions.split(",") if name not in QUESTIONS]
    if unknown:
        parser.error(f"questions must be of {', '.join(QUESTIONS)}: got {', '.join(unknown)}")
    questions = [QUESTIONS[name] for name in options.questions.split(",")]
    if scale.on_gpu and options.questions == ",".join(QUESTIONS):
        questions = [question for question in questions if question.owed]
    folder: Path = options.out or HERE / ("results" if scale.name == "full" else f"results-{scale.name}")
    published = options.out is None and scale.name in ("full", "gpu")
    page: Path = options.page or (HERE.parents[1] / "docs" / "study.md" if published else folder / "study.md")

    if options.plan:
        print(plan(questions, scale, options.workers))
        return 0
    if options.repeat:
        try:
            rows = repeat.matching(folder, [question.name for question in questions], options.repeat)
        except ValueError as error:
            parser.error(str(error))
        print(f"{len(rows)} trials to run again", file=sys.stderr)
        print(repeat.repeated(rows, workers=options.workers, device=options.device))
        return 0
    if not options.report:
        trials = missing(folder, (trial for question in questions for trial in question.trials(scale)))
        print(f"{len(trials)} trials to run; rows go to {folder}", file=sys.stderr)
        try:
            if trials:
                machine.note(folder, options.device)
            work(folder, trials, workers=options.workers, device=options.device)
            if not cost.read(folder):
                rounds = {"repeats": 3, "warm_up": 1} if scale.name == "quick" else {"repeats": 60}
                cost.measure(folder, options.device, **rounds)
        except KeyboardInterrupt:
            print("\nended; the same command goes on where it was", file=sys.stderr)
            return 130
    if published:
        report.write(HERE / "results", page, SCALES["full"], gpu=HERE / "results-gpu")
    else:
        report.write(folder, page, scale)
    print(f"the report is {page}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
