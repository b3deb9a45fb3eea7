"""What a person sees of a run that was only looked for: files, time, and what waits until when."""

from dataclasses import asdict

from rich import filesize

from flows.console import out, print_json
from flows.estimate import Estimate, Seconds
from flows.plan import Plan, WaitingFile

_NAMED = 10  # waiting files
_STEPS = ((172_800, 86_400, "days"), (7_200, 3_600, "h"), (120, 60, "min"), (0, 1, "s"))


def show(found: Plan, took: Estimate | None, *, as_json: bool) -> None:
    """Print what a run would do and how long it would take."""
    if as_json:
        content = {name: value for name, value in asdict(found).items() if name != "mark"}
        print_json({**content, "estimate": asdict(took) if took else None})
        return
    out.print(
        f"would read {found.to_read} files ({found.new} new, {found.changed} changed), "
        f"{filesize.decimal(found.bytes)}; "
        f"{found.known} known, {found.gone} gone, {found.waiting} waiting",
        soft_wrap=True,
    )
    after = "every stage" if found.to_read else ", ".join(found.stale) or "nothing else"
    out.print(f"would then run: {after}")
    if found.any:
        out.print(_time(found, took), soft_wrap=True)
    for told in took.warnings if took else []:
        out.print(f"  {told}", soft_wrap=True)
    _show_waiting(found.waiting_files, found.waiting)


def span(took: Seconds) -> str:
    """Return a range of time as people say it.

    >>> span(Seconds(41, 95)), span(Seconds(100, 200)), span(Seconds(3.2, 3.4))
    ('41 to 95 s', '100 s to 3.3 min', '3 s')
    """
    low, high = _time_text(took.low), _time_text(took.high)
    if low == high:
        return high
    number, unit = low.split()
    return f"{number if high.endswith(f' {unit}') else low} to {high}"


def _time(found: Plan, took: Estimate | None) -> str:
    if took is None:
        what = "of this model, device and decoding " if found.to_read else ""
        return f"would take: not known; no run {what}here tells yet, the first one will"
    parts = []
    if took.images_per_second:
        rates = " to ".join(f"{rate:.3g}" for rate in dict.fromkeys(took.images_per_second))
        parts.append(f"{span(took.embed)} embedding, at {rates} images/s")
    elif found.to_read:
        parts.append(f"{span(took.embed)} embedding, as small drops took before")
    parts.append(f"{span(sum(took.stages.values(), Seconds()))} the other stages")
    parts.append(f"{span(took.start)} to begin")
    return f"would take {span(took.in_all)}: {'; '.join(parts)}\n  {_measured(took)}"


def _measured(took: Estimate) -> str:
    told = f"by {len(took.runs)} runs, the last {took.runs[0]}"
    if len(took.runs) == 1:
        told = f"by one run, {took.runs[0]}"
    ran = took.ran_with
    if not ran:
        return told
    devices = ran.get("devices")
    names = ", ".join(map(str, devices)) if isinstance(devices, list) else str(ran.get("device"))
    return (
        f"{told}: {ran.get('model')} on {names}, {ran.get('cores')} cores, "
        f"{ran.get('precision')}, decode {ran.get('decode')}"
    )


def _show_waiting(files: list[WaitingFile], number: int) -> None:
    for file in files[:_NAMED]:
        at = file.taken_from.astimezone().isoformat(" ", "seconds")
        out.print(f"  waits: {file.path} ({file.reason}): taken from {at} on", soft_wrap=True)
    if number > _NAMED:
        out.print(f"  and {number - _NAMED} more that wait")


def _time_text(seconds: float) -> str:
    least, unit, name = next(step for step in _STEPS if seconds >= step[0])
    number = seconds / unit
    return f"{number:.1f} {name}" if least and number < 10 else f"{number:.0f} {name}"
