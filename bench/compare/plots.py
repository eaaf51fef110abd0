"""What was measured as pictures: speed and memory over length, error, decode, windows."""

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "attn", "svg.fonttype": "none", "font.size": 9,
                        "axes.spines.top": False, "axes.spines.right": False,
                        "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True}

from matplotlib import pyplot as plt  # noqa: E402: after the choice of what it draws with

COLOURS = {"attn": "#d62728", "eigen": "#7f7f7f", "numpy": "#bcbd22", "torch": "#ff7f0e",
           "flex": "#8c564b", "ort": "#1f77b4", "openvino": "#2ca02c"}
OTHERS = ["#9467bd", "#17becf", "#e377c2"]  # peers given by the caller


def style(peers):
    free = iter(OTHERS * len(peers))
    return {peer.name: {"color": COLOURS.get(peer.name) or next(free), "label": peer.title,
                        "linewidth": 2.4 if peer.name == "attn" else 1.2, "marker": "o",
                        "markersize": 5 if peer.name == "attn" else 3.5,
                        "zorder": 3 if peer.name == "attn" else 2} for peer in peers}


def lines(axes, results, peers, x, y, scale="linear"):
    """One line a peer; lengths double from tick to tick."""
    if not results:
        return
    styles = style(peers)
    ticks = set()
    for peer in peers:
        points = sorted((x(r), y(r)) for r in results if r.peer == peer.name)
        if points:
            axes.plot(*zip(*points), **styles[peer.name])
            ticks |= {point[0] for point in points}
    axes.set_yscale(scale)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks), [f"{tick:,}" for tick in sorted(ticks)])
    axes.minorticks_off()


def threads_of(results, number):
    timed = sorted({r.threads for r in results if r.memory is None})
    return timed[min(number, len(timed) - 1)] if timed else 0


def speed(axes, results, peers, causal=False, of_threads=0):
    threads = threads_of(results, of_threads)
    shown = [r for r in results if r.row.kind == "forward" and r.threads == threads and
             r.row.width == 64 and r.row.heads in (1, 8) and r.row.causal == causal and
             not r.row.masked and (r.row.heads == 8 or r.row.queries > 4096)]
    lines(axes, shown, peers, lambda r: r.row.queries, lambda r: r.row.figure(r.median))
    axes.set_title(f"GFLOP/s over length, {'causal, ' * causal}width 64")
    axes.set_ylim(bottom=0)
    return bool(shown)


def memory(axes, results, peers):
    shown = [r for r in results if r.memory is not None and not r.row.causal]
    lines(axes, shown, peers, lambda r: r.row.queries, lambda r: max(r.memory, 2**16) / 2**20,
          scale="log")
    axes.set_title("MiB that a call adds, over length")
    return bool(shown)


def error(axes, results, peers):
    shown = [r for r in results if r.row.kind in ("forward", "window") and
             r.threads == threads_of(results, 0) and r.memory is None]
    names = list(dict.fromkeys(r.row.name for r in shown))
    styles = style(peers)
    for peer in peers:
        points = [(names.index(r.row.name), r.error) for r in shown if r.peer == peer.name]
        if points:
            axes.plot(*zip(*points), **styles[peer.name] | {"linestyle": ""})
    if shown:
        axes.set_yscale("log")
    axes.set_xticks([])
    axes.set_xlabel(f"{len(names)} rows, in the table's order")
    axes.set_title("largest error against float64")
    return bool(shown)


def decode(axes, results, peers):
    shown = [r for r in results if r.row.kind == "decode" and r.threads == threads_of(results, 0)]
    lines(axes, shown, peers, lambda r: r.row.keys, lambda r: r.row.figure(r.median))
    axes.set_title("decode: GB/s of keys and values, over keys")
    axes.set_ylim(bottom=0)
    return bool(shown)


def window(axes, results, peers):
    shown = [r for r in results if r.row.kind == "window" and r.threads == threads_of(results, 0)]
    lines(axes, shown, peers, lambda r: r.row.left, lambda r: r.median * 1e3, scale="log")
    axes.set_title("ms of a window, over its length")
    return bool(shown)


PANELS = {"speed": speed, "speed_causal": lambda *given: speed(*given, causal=True),
          "decode": decode, "window": window, "memory": memory, "error": error}


def save(figure, path):
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write(results, peers, folder):
    """A picture for each panel of which there is something to show."""
    for name, panel in PANELS.items():
        figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        if panel(axes, results, peers):
            axes.legend(frameon=False)
            save(figure, folder / f"{name}.svg")
        plt.close(figure)


def write_picture(results, peers, path):
    """All panels in one."""
    figure, grid = plt.subplots(2, 3, figsize=(12, 6.6), layout="constrained")
    for axes, panel in zip(grid.flat, PANELS.values()):
        panel(axes, results, peers)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=8,
                  frameon=False)
    save(figure, path)
