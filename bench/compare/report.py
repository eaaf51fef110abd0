"""What was measured as lines, Markdown, CSV, and the README's table."""

import csv
import os
import re
from pathlib import Path

from rows import UNITS

README_ROWS = [
    "forward/1x8x512x64", "forward/1x8x1024x64", "forward/1x8x4096x64", "forward/1x8x2048x128",
    "forward/1x12x197x64", "forward/1x8x1024x64/causal", "forward/1x8x4096x64/causal",
    "forward/1x1x16384x64/causal", "forward/1x8x1024x64/mask", "forward/1x32:8x1024x128/causal",
    "window/1x1x8192x64/window256", "decode/1x32:8x1:1024x128", "decode/1x32:8x1:32768x128",
    "backward/1x8x1024x64", "backward/1x8x2048x64/causal", "tiny/1x1x4x8", "tiny/1x1x16x64",
    "tiny/1x1x64x64", "memory/1x1x16384x64", "memory/1x1x16384x64/causal",
]


def machine():
    """What one calls this machine."""
    model, flags = "unknown processor", ""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = " ".join(value.split())
        if name.strip() in ("flags", "Features"):
            flags = value.split()
    has = [title for flag, title in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON"))
           if flag in flags]
    return f"{model}, {', '.join(has[:1]) or 'no vectors known'}, {os.cpu_count()} cores"


def short(number):
    """Three digits."""
    if number >= 100:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def titles(results, peers):
    present = {result.peer for result in results}
    return [peer for peer in peers if peer.name in present]


def line(results, peers):
    """One row, as it is measured."""
    if not results:
        return "no peer does this row"
    parts = []
    for peer in titles(results, peers):
        result = next(r for r in results if r.peer == peer.name)
        if result.memory is not None:
            parts.append(f"{peer.name} {result.memory / 2**20:.1f}")
        elif peer.name == "attn" or result.ratio is None:
            figure = short(result.row.figure(result.median))
            parts.append(f"{peer.name} {figure} {UNITS[result.row.kind]}")
        else:
            parts.append(f"{peer.name} {short(result.ratio)}")
    return f"{results[0].row.name}: " + ", ".join(parts)


def cell(result):
    """Median, spread, and how many times as long as ours it takes."""
    if result.memory is not None:
        return f"{result.memory / 2**20:.1f}"
    low, high = sorted(result.row.figure(s) for s in (min(result.seconds), max(result.seconds)))
    text = f"{short(result.row.figure(result.median))} ({short(low)}–{short(high)})"
    return text if result.ratio is None else f"{text} ×{short(result.ratio)}"


def markdown_table(results, peers, text):
    columns = titles(results, peers)
    lines = ["| row | " + " | ".join(peer.title for peer in columns) + " |",
             "|---" + "|---:" * len(columns) + "|"]
    by_row = {}
    for result in results:
        by_row.setdefault(result.row.name, {})[result.peer] = result
    for name, found in by_row.items():
        cells = [text(found[p.name]) if p.name in found else "–" for p in columns]
        best = min(found.values(), key=lambda r: r.memory if r.memory is not None else r.median)
        cells = [f"**{c}**" if p.name == best.peer else c for p, c in zip(columns, cells)]
        lines.append(f"| {name.partition('/')[2]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_table(results, peers, versions, path):
    said = ", ".join(sorted({version for version in versions.values() if version}))
    parts = [f"# Side by side\n\nOn {machine()}; {said}.\n\n"
             "Median of the rounds (lowest–highest) ×how many times as long as attn it takes; "
             "the best of a row is bold."]
    for kind, unit in UNITS.items():
        for threads in sorted({r.threads for r in results}):
            of_kind = [r for r in results if r.row.kind == kind and r.threads == threads]
            if of_kind:
                parts.append(f"## {kind}, {unit}, {threads} thread{'s' * (threads > 1)}\n\n" +
                             markdown_table(of_kind, peers, cell))
    errors = [r for r in results if r.memory is None and r.threads == min(x.threads for x in results)]
    if errors:
        parts.append("## largest error against float64\n\n" +
                     markdown_table(errors, peers, lambda r: f"{r.error:.1e}").replace("**", ""))
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_csv(results, path):
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["row", "threads", "peer", "setting", "median_seconds", "min_seconds",
                      "max_seconds", "rounds", "figure", "unit", "ratio_to_attn", "largest_error",
                      "memory_bytes"])
        for r in results:
            timed = r.memory is None
            out.writerow([
                r.row.name, r.threads, r.peer, r.setting,
                *([r.median, min(r.seconds), max(r.seconds), len(r.seconds),
                   r.row.figure(r.median)] if timed else [""] * 4 + [r.memory / 2**20]),
                UNITS[r.row.kind], "" if r.ratio is None else r.ratio, r.error if timed else "",
                "" if timed else r.memory])


def write(results, peers, versions, folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_table(results, peers, versions, folder / "table.md")
    write_csv(results, folder / "results.csv")
    try:
        import plots
    except ModuleNotFoundError as error:
        print(f"left out: the plots: no module named {error.name}")
        return
    plots.write(results, peers, folder)


def readme_table(results, peers, versions):
    """Ratios, one thread / two; a number below 1, where a peer is ahead, is bold."""
    others = [peer for peer in titles(results, peers) if peer.name != "attn"]
    threads = sorted({r.threads for r in results if r.memory is None})
    found = {(r.row.name, r.threads, r.peer): r for r in results}

    def figure(name, peer):
        values = [found.get((name, n, peer)) for n in threads]
        if name.startswith("memory/"):
            values = [found.get((name, max(threads), peer))]
        return [r for r in values if r is not None]

    def ratio(result):
        ours = found.get((result.row.name, result.threads, "attn"))
        if result.memory is None:
            value = result.ratio
        else:
            value = result.memory / ours.memory if ours and ours.memory else None
        if value is None:
            return "–"
        return f"**{short(value)}**" if value < 1 else short(value)

    def own(result):
        if result.memory is not None:
            return f"{result.memory / 2**20:.1f}"
        return short(result.row.figure(result.median))

    lines = ["| row | attn | " + " | ".join(peer.title for peer in others) + " |",
             "|---|---:" + "|---:" * len(others) + "|"]
    for name in README_ROWS:
        ours = figure(name, "attn")
        if ours:
            cells = [" / ".join(map(own, ours)) + " " + UNITS[ours[0].row.kind]]
            cells += [" / ".join(map(ratio, figure(name, p.name))) or "–" for p in others]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    said = ", ".join(sorted({version for version in versions.values() if version}))
    count = " / ".join({1: "one", 2: "two"}.get(n, str(n)) for n in threads)
    return (f"On {count} thread{'s' * (max(threads) > 1)} of {machine()}; {said}:\n\n"
            + "\n".join(lines))


def write_readme(results, peers, versions, root):
    """Puts the table between the README's two marks, and the picture where it shows it."""
    readme = root / "README.md"
    old = readme.read_text(encoding="utf-8")
    begin, end = "<!-- compare: begin -->", "<!-- compare: end -->"
    form = re.compile(f"{begin}.*?{end}", re.DOTALL)
    if not form.search(old):
        raise SystemExit(f"README.md has no {begin} … {end}")
    table = readme_table(results, peers, versions)
    readme.write_text(form.sub(lambda _: f"{begin}\n{table}\n{end}", old), encoding="utf-8")
    import plots
    plots.write_picture(results, peers, root / ".github" / "compare.svg")
