"""What comes back when one zooms into a page: the series once more, thinned out less, and the script that draws it.

The page draws some 1,200 buckets of the whole span. Beside them it carries finer ones, packed, as many as there is
room for: every bar where that is possible. When the shown span changes, the script takes what lies in it and
thins that out to as many points again; a spike is lost in neither step, for the extremes of extremes are extremes.

Packed is deflate, in base64, of little-endian arrays one after another: starts of the buckets, then times and values
of each line, then means. Times are uint32, steps from the one before in `unit`s. Values are float32, shown to 7 digits:
the bits of each less those of the one before, sign last, all lowest bytes first and all highest last. Means are uint8,
0 to 254 from `low` to `high`, 255 where none is defined.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.pipelines.pages.sampling import F64, I64, Line, Sampled

UNDEFINED = 255
STEPS_MOST = 2**32 - 1


@dataclass(frozen=True)
class Detail:
    """`text`: JSON for the script. `width`: bars of the finest bucket."""

    text: str
    width: int


def detail(fine: Sampled, room_bytes: int) -> Detail:
    """The finest of `fine`, and of it with its buckets joined in pairs again and again, whose text fits."""
    while True:
        text = _packed(fine)
        if len(text) <= room_bytes or fine.starts.size <= 1:
            return Detail(text, fine.width)
        fine = joined(fine)


def joined(fine: Sampled) -> Sampled:
    """Every two buckets as one: extremes of extremes, and means of means that count alike."""
    groups = np.arange(0, fine.starts.size, 2)
    lines = {name: _joined(line, fine.starts[groups]) for name, line in fine.lines.items()}
    means = {name: _paired(values) for name, values in fine.means.items()}
    return replace(fine, width=2 * fine.width, lines=lines, starts=fine.starts[groups], means=means)


def _joined(line: Line, starts: I64) -> Line:
    """First, lowest, highest and last point of each bucket that begins at one of `starts`."""
    group = np.searchsorted(starts, line.ts, side="right")
    place = np.arange(group.size)
    ends = np.flatnonzero(np.diff(group, append=-1))
    first = np.flatnonzero(np.diff(group, prepend=-1))
    lowest, highest = (np.lexsort((place, values, group))[first] for values in (line.values, -line.values))
    kept = np.unique(np.concatenate([first, lowest, highest, ends]))
    return Line(line.ts[kept], line.values[kept])


def _paired(values: F64) -> F64:
    pairs = np.append(values, np.nan)[: values.size + values.size % 2].reshape(-1, 2)
    counts = (~np.isnan(pairs)).sum(axis=1)
    means = np.full(counts.size, np.nan)
    np.divide(np.nansum(pairs, axis=1), counts, out=means, where=counts > 0)
    return means


def _packed(fine: Sampled) -> str:
    times = [fine.starts, *(line.ts for line in fine.lines.values())]
    begin = min((int(ts[0]) for ts in times if ts.size), default=fine.end)
    unit = _unit([*times, np.array([begin, fine.end])])
    means = {name: _coded(values) for name, values in fine.means.items()}
    arrays: list[NDArray[Any]] = [_steps(fine.starts, begin, unit)]
    for line in fine.lines.values():
        arrays += [_steps(line.ts, begin, unit), _planes(line.values)]
    arrays += [codes for codes, _, _ in means.values()]
    data = zlib.compress(b"".join(array.tobytes() for array in arrays), 6)
    return json.dumps(
        {
            "begin": begin / 1e6,
            "end": fine.end / 1e6,
            "unit": unit / 1e6,
            "starts": fine.starts.size,
            "lines": [[name, line.ts.size] for name, line in fine.lines.items()],
            "means": [[name, low, high] for name, (_, low, high) in means.items()],
            "data": base64.b64encode(data).decode(),
        }
    )


def _unit(times: Iterable[I64]) -> int:
    """ns that all steps are multiples of; where steps would not fit into their type, the smallest with which they do,
    and times are rounded."""
    steps = [np.diff(ts) for ts in times]
    common = int(np.gcd.reduce(np.concatenate([np.zeros(1, np.int64), *steps]))) or 1
    longest = max((int(step.max()) for step in steps if step.size), default=0)
    return max(common, -(-longest // STEPS_MOST))


def _steps(ts: I64, begin: int, unit: int) -> NDArray[np.uint32]:
    return np.diff((ts - begin + unit // 2) // unit, prepend=0).astype("<u4")


def _planes(values: F64) -> NDArray[np.uint8]:
    """[4, n]: bytes of the differences, which neighbours make small."""
    bits = values.astype("<f4").view("<i4")
    steps = np.diff(bits, prepend=np.int32(0))
    return ((steps << 1) ^ (steps >> 31)).view(np.uint8).reshape(-1, 4).T


def _coded(values: F64) -> tuple[NDArray[np.uint8], float, float]:
    """Codes of the values, and what the first and last code mean."""
    defined = ~np.isnan(values)
    some = values[defined]
    low, high = (float(some.min()), float(some.max())) if some.size else (0.0, 0.0)
    codes = np.full(values.size, UNDEFINED, np.uint8)
    codes[defined] = np.rint((some - low) / ((high - low) or 1.0) * (UNDEFINED - 1))
    return codes, low, high


SCRIPT = """
(function () {
  "use strict";
  var BUCKETS = 1200, POINTS = 4 * BUCKETS, UNDEFINED = 255;
  var block = document.getElementById("detail");
  if (!block || !window.DecompressionStream) return;
  var range = null, sources = [], detail = null, asked = false, waiting = false;

  function load() {
    var about = JSON.parse(block.textContent);
    var packed = Uint8Array.from(atob(about.data), function (one) { return one.charCodeAt(0); });
    var stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    new Response(stream).arrayBuffer().then(function (buffer) { detail = unpack(about, buffer); draw(); });
  }
  function unpack(about, buffer) {
    var at = 0, found = {lines: {}, means: {}};
    function times(n) {
      var steps = new Uint32Array(buffer, at, n), ts = new Float64Array(n), sum = 0;
      at += 4 * n;
      for (var i = 0; i < n; i++) { sum += steps[i]; ts[i] = about.begin + sum * about.unit; }
      return ts;
    }
    function floats(n) {
      var planes = new Uint8Array(buffer, at, 4 * n), bits = new Int32Array(n), sum = 0;
      at += 4 * n;
      for (var i = 0; i < n; i++) {
        var step = planes[i] | planes[n + i] << 8 | planes[2 * n + i] << 16 | planes[3 * n + i] << 24;
        sum = sum + ((step >>> 1) ^ -(step & 1)) | 0;
        bits[i] = sum;
      }
      return new Float32Array(bits.buffer);
    }
    found.edges = times(about.starts);
    about.lines.forEach(function (one) {
      var ts = times(one[1]);
      found.lines[one[0]] = {ts: ts, values: floats(one[1])};
    });
    about.means.forEach(function (one) {
      found.means[one[0]] = {codes: new Uint8Array(buffer, at, about.starts), low: one[1],
        step: (one[2] - one[1]) / (UNDEFINED - 1)};
      at += about.starts;
    });
    found.edges = Float64Array.from([...found.edges, about.end]);
    return found;
  }
  function after(ts, time) {
    var low = 0, high = ts.length;
    while (low < high) {
      var middle = (low + high) >> 1;
      if (ts[middle] > time) high = middle; else low = middle + 1;
    }
    return low;
  }
  function thinned(line, positive) {
    var ts = line.ts, values = line.values, x = [], y = [], last = -1;
    var from = Math.max(0, after(ts, range.start) - 1), to = Math.min(ts.length, after(ts, range.end) + 1);
    var size = to - from > POINTS ? Math.ceil((to - from) / BUCKETS) : 1;
    function keep(at) {
      if (at === last || (positive && !(values[at] > 0))) return;
      last = at;
      x.push(ts[at]);
      y.push(Number(values[at].toPrecision(7)));
    }
    for (var start = from - from % size; start < to; start += size) {
      var stop = Math.min(ts.length, start + size), low = start, high = start;
      for (var at = start + 1; at < stop; at++) {
        if (values[at] < values[low]) low = at;
        if (values[at] > values[high]) high = at;
      }
      [start, Math.min(low, high), Math.max(low, high), stop - 1].forEach(keep);
    }
    return {x: x, y: y};
  }
  function averaged(names, drop) {
    var n = detail.edges.length - 1, found = {};
    var from = Math.max(0, after(detail.edges, range.start) - 1);
    var to = Math.min(n, after(detail.edges, range.end) + 1), size = Math.max(1, Math.ceil((to - from) / BUCKETS));
    names.forEach(function (name) { found[name] = []; });
    for (var start = from - from % size; start < to; start += size) {
      var stop = Math.min(n, start + size), row = {left: detail.edges[start], right: detail.edges[stop]}, whole = true;
      row.x = row.left;
      names.forEach(function (name) {
        var mean = detail.means[name], sum = 0, count = 0;
        if (!mean) return;
        for (var at = start; at < stop; at++) {
          if (mean.codes[at] !== UNDEFINED) { sum += mean.codes[at]; count += 1; }
        }
        row[name] = count ? mean.low + mean.step * sum / count : NaN;
        whole = whole && count > 0;
      });
      if (whole || !drop) names.forEach(function (name) { found[name].push(row[name]); });
    }
    return found;
  }
  function shown(source) {
    var tags = source.tags, data = source.data;
    if (tags[0] === "line") return thinned(detail.lines[tags[1]], tags[2] === "positive");
    var found = averaged(data instanceof Map ? [...data.keys()] : Object.keys(data), tags[0] === "drop");
    if (tags[0] === "shade") Object.keys(found).forEach(function (name) {
      if (name !== "left" && name !== "right") found[name] = found[name].map(function (one) {
        return one === one ? one * tags[1] : 0;
      });
    });
    return found;
  }
  function draw() {
    waiting = false;
    var whole = range.start <= range.bounds[0] && range.end >= range.bounds[1];
    if (!whole && !detail) {
      if (!asked) load();
      asked = true;
      return;
    }
    sources.forEach(function (one) {
      if (!whole) one.source.data = shown(one.source);
      else if (one.source.data !== one.data) one.source.data = one.data;
    });
  }
  function soon() {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }
  (function drawn() {
    if (!window.Bokeh || !Bokeh.documents.length) return requestAnimationFrame(drawn);
    Bokeh.documents.forEach(function (doc) {
      doc._all_models.forEach(function (model) {
        if (model.name === "time") range = model;
        else if (model.type === "ColumnDataSource" && model.tags.length)
          sources.push({source: model, data: model.data});
      });
    });
    if (!range) return;
    range.change.connect(soon);
    soon();
  })();
})();
"""
"""Redraws what is tagged when the range `time` changes. A page forbids itself to evaluate text, and with it Bokeh's
own callbacks: so this is a script of the page."""
