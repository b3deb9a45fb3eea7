"""The sub-commands of `pseudolabel`, and the options they share.

Everything heavy is imported inside the commands, so that --help and status answer at once.
"""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Config file [default: pseudolabel.toml where there is one]."),
]
StoreFolder = Annotated[
    str | None, typer.Option("--store", help="Folder that holds every result.", metavar="DIR")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="ViT-B-32/laion2b_s34b_b79k, ViT-B-32/file.pt, hf-hub:org/name, local-dir:folder.",
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")]
Precision = Annotated[str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
Labels = Annotated[
    str | None,
    typer.Option("--labels", help='A label set (TOML), or names: "dog,cat,car".'),
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        help='Prompt template, such as "an eye with {}", or a set: one, cifar or imagenet.',
    ),
]
Refine = Annotated[
    str | None,
    typer.Option("--refine", help="auto, none, neighbours[-strong, -sure] or anchored."),
]
Policy = Annotated[str | None, typer.Option("--policy", help="threshold, quantile or top-k.")]
TopK = Annotated[int | None, typer.Option("--top-k", "-k", help="Answers per image.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other knob, as section.key=value; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="A summary as JSON on standard output.")]
Plain = Annotated[bool, typer.Option("--plain", help="Run the stages without Prefect.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait while another run holds the store.")]
Truth = Annotated[
    str | None,
    typer.Option(
        "--truth", help="True labels: a CSV file (path,label), or a folder with one folder a class."
    ),
]
