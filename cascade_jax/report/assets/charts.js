// The charts. Series differ by colour, dash and marker, so that they can be distinguished in print.

const DASHES = ["", "9 4", "3 3", "10 3 2 3", "14 4", "5 2", "2 2 8 2"];
const MARKED = [0, 0.25, 0.5, 0.75, 1];
const MARKERS = [
  "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0-4 0Z", "M-3.6-3.6H3.6V3.6H-3.6Z", "M0-4.6L4.4 3.4H-4.4Z",
  "M0-5L4.4 0 0 5-4.4 0Z", "M0 4.6L4.4-3.4H-4.4Z",
  "M-1.5-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z",
  "M-4-2.4L-2.4-4 0-1.6 2.4-4 4-2.4 1.6 0 4 2.4 2.4 4 0 1.6-2.4 4-4 2.4-1.6 0Z",
];
const STAR = "M0-8L1.9-2.6 7.6-2.5 3 1 4.7 6.5 0 3.2-4.7 6.5-3 1-7.6-2.5-1.9-2.6Z";

const CROSS = "M-6-3.4L-3.4-6 0-2.6 3.4-6 6-3.4 2.6 0 6 3.4 3.4 6 0 2.6-3.4 6-6 3.4-2.6 0Z";

const seriesClass = (i) => `series c${i % MARKERS.length}`;
const dash = (i) => DASHES[(i + Math.floor(i / DASHES.length)) % DASHES.length] || null;

const mark = (d, name, x, y, ...children) => s("path", { d, class: name,
  transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` }, ...children);
const marker = (i, x, y) =>
  mark(MARKERS[i % MARKERS.length], `marker c${i % MARKERS.length}`, x, y);

// Grid, tick labels and titles of both axes.
function axes(box, x, y, { xText, yText, xTitle, yTitle }) {
  const parts = [];
  for (const tick of y.ticks) {
    parts.push(s("line", { x1: box.left, x2: box.right, y1: y(tick), y2: y(tick), class: "grid" }));
    parts.push(s("text", { x: box.left - 6, y: y(tick) + 4, "text-anchor": "end" }, yText(tick)));
  }
  for (const tick of x.ticks)
    parts.push(s("text", { x: x(tick), y: box.bottom + 16, "text-anchor": "middle" }, xText(tick)));
  parts.push(s("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom,
    class: "axis" }));
  if (xTitle) parts.push(s("text", { x: (box.left + box.right) / 2, y: box.bottom + 36,
    "text-anchor": "middle", class: "title" }, xTitle));
  if (yTitle) parts.push(s("text", { x: box.left - 6, y: box.top - 10, class: "title" }, yTitle));
  return parts;
}

// Empties a chart and sets its size; the box between its axes.
function cleared(svg, { width, height }, { left = 50, right = 14, top = 28, bottom = 46 } = {}) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  return { left, right: width - right, top, bottom: height - bottom };
}

// What a horizontal axis shows: cost in one unit, or the share deferred in per cent.
function horizontal(panel, axis) {
  if (axis === "rate")
    return { of: (c) => c.rate, at: (policy) => policy.rate, title: "deferred (%)",
      text: (v) => String(Math.round(100 * v)) };
  const costs = Object.values(panel.cascades).map((c) => c.cost.at(-1));
  const [scale, prefix] = prefixOf(Math.max(...costs), panel.cost_unit);
  return { of: (c) => c.cost, at: (policy) => policy.cost, title: prefix + panel.cost_label,
    text: (v) => String(Number((v / scale).toPrecision(4))) };
}

// Quality against cost or rate. Returns the scales, for whoever asks what lies under the pointer.
function drawCurves(svg, panel, { axis, chosen, point, isSmall, ...size }) {
  const margins = isSmall ? { left: 38, right: 6, top: 8, bottom: 20 } : { right: 16 };
  const box = cleared(svg, size, margins);
  const names = data.names; // keys of an object would put names that are numbers first
  const across = horizontal(panel, axis);
  const shown = panel.cascades[chosen];
  const policies = (panel.points ?? []).filter((policy) => isKnown(across.at(policy)));
  const [low, high] = extent([...names.flatMap((name) => panel.cascades[name].quality),
    ...shown.random, ...shown.ideal, ...shown.oracle, ...policies.map((policy) => policy.quality)]);
  const [least, most] = extent([...names.flatMap((name) => across.of(panel.cascades[name])),
    ...policies.map(across.at)]);
  const x = linear(least, most, box.left, box.right, isSmall ? 3 : 6);
  const pad = Math.max(0.06 * (high - low), 0.004);
  const y = linear(low - pad, high + pad, box.bottom, box.top, isSmall ? 3 : 5);
  svg.append(...axes(box, x, y, { xText: across.text, yText: (v) => String(v),
    ...(isSmall ? {} : { xTitle: across.title, yTitle: `quality: ${panel.metric}` }) }));

  // Random, ideal and oracle of the chosen cascade.
  const place = (v) => (isKnown(v) ? y(v) : null);
  const line = (cascade, ys) => through(across.of(cascade).map(x), ys.map(place));
  const best = axis === "rate" ? shown.rate : shown.oracle_cost;
  svg.append(s("path", { d: through(best.map(x), shown.oracle.map(place)), class: "oracle" }));
  // Both do not say which examples are deferred, so their cost is the mean at every rate.
  const [none, all] = [shown.cost[0], shown.cost.at(-1)];
  const even = axis === "rate" ? shown.rate : shown.rate.map((rate) => none + rate * (all - none));
  const straight = (ys) => through(even.map(x), ys.map(place));
  if (!panel.is_corpus) svg.append(s("path", { d: straight(shown.ideal), class: "ideal" }));
  svg.append(s("path", { d: straight(shown.random), class: "random" }));

  names.forEach((name, i) => {
    const cascade = panel.cascades[name];
    const isChosen = name === chosen && !isSmall;
    svg.append(s("path", { d: line(cascade, cascade.quality), "stroke-dasharray": dash(i),
      class: seriesClass(i) + (isChosen ? " chosen" : "") }));
    if (isSmall) return;
    for (const rate of MARKED) {
      const at = nearest(cascade.rate, rate);
      svg.append(marker(i, x(across.of(cascade)[at]), y(cascade.quality[at])));
    }
  });
  if (isSmall) return null;
  if (axis === "cost") {
    const alone = shown.cost.at(-1) - shown.cost[0];
    svg.append(mark(STAR, "star", x(alone), y(shown.quality.at(-1))));
  }
  for (const policy of policies)
    svg.append(mark(CROSS, "point", x(across.at(policy)), y(policy.quality), s("title", {},
      `certified policy of ${policy.name}: quality ${show.quality(policy.quality)}`)));
  const at = [x(across.of(shown)[point]), y(shown.quality[point])];
  svg.append(s("line", { x1: at[0], x2: at[0], y1: box.top, y2: box.bottom, class: "cursor" }));
  svg.append(s("circle", { cx: at[0], cy: at[1], r: 7, class: "ring" }));
  return { x, y, box, values: across.of };
}

// The index of the value that is nearest to a target, the first of equals.
const nearest = (values, target) => values.reduce((best, value, i) =>
  (Math.abs(value - target) < Math.abs(values[best] - target) ? i : best), 0);

// Shares of the right answers upwards (filled), of the wrong ones downwards (hollow); deferred is
// what lies right of τ.
function drawHistogram(svg, cascade, tau, { title, ...size }) {
  const box = cleared(svg, size, { left: 46 });
  const { edges, right, wrong, num_above: numAbove } = cascade.histogram;
  const total = (counts) => counts.reduce((sum, count) => sum + count, 0) || 1;
  const most = (counts) => Math.max(...counts) / total(counts) || 0.02;
  const x = linear(edges[0], edges.at(-1), box.left, box.right, 5);
  const y = linear(-most(wrong), most(right), box.bottom, box.top, 5);
  const place = Math.min(Math.max(x(isKnown(tau) ? tau : edges[0]), box.left), box.right);
  svg.append(s("rect", { x: place, y: box.top, width: box.right - place,
    height: box.bottom - box.top, class: "deferred" }));
  svg.append(...axes(box, x, y, { xText: String, yText: (v) => `${Math.round(100 * Math.abs(v))} %`,
    xTitle: title + (numAbove ? ` (last bar: ${show.count(numAbove)} above it)` : "") }));
  for (const [counts, sign, kind] of [[right, 1, "right"], [wrong, -1, "wrong"]])
    counts.forEach((count, i) => {
      if (!count) return;
      const end = y((sign * count) / total(counts));
      svg.append(s("rect", { class: `bar ${kind}`, x: x(edges[i]) + 0.5, y: Math.min(y(0), end),
        width: Math.max(x(edges[i + 1]) - x(edges[i]) - 1, 0.5), height: Math.abs(y(0) - end) },
      s("title", {}, `${show.count(count)} ${kind} answers`)));
    });
  svg.append(s("line", { x1: box.left, x2: box.right, y1: y(0), y2: y(0), class: "axis" }),
    s("text", { x: box.right, y: box.top - 10, "text-anchor": "end", class: "title" },
      "▲ of the right ones   ▽ of the wrong ones"),
    s("line", { x1: place, x2: place, y1: box.top - 4, y2: box.bottom, class: "tau" }),
    s("text", { x: place, y: box.top - 10, "text-anchor": "middle", class: "strong" }, "τ"));
}

// Quality of the small model's answers by confidence; the area of a dot is its share of examples.
// Hollow: the confidence after temperature scaling.
function drawReliability(svg, { before, after }, size) {
  const box = cleared(svg, size, { left: 46 });
  const x = linear(0, 1, box.left, box.right, 5);
  const y = linear(0, 1, box.bottom, box.top, 5);
  svg.append(...axes(box, x, y, { xText: String, yText: String, yTitle: "mean quality",
    xTitle: "confidence of the small model" }));
  svg.append(s("path", { class: "ideal", d: through([x(0), x(1)], [y(0), y(1)]) }));
  for (const [points, kind] of [[after, "scaled"], [before, "plain"]]) {
    if (!points) continue;
    const bins = points.count.map((_, i) => i).filter((i) => points.count[i]);
    const [xs, ys] = [points.confidence, points.quality];
    svg.append(s("path", { class: `reliability ${kind}`,
      d: through(bins.map((i) => x(xs[i])), bins.map((i) => y(ys[i]))) }));
    const largest = Math.max(...points.count);
    for (const i of bins)
      svg.append(s("circle", { cx: x(xs[i]), cy: y(ys[i]), class: `dot ${kind}`,
        r: 3 + 7 * Math.sqrt(points.count[i] / largest) }, s("title", {},
        `${show.count(points.count[i])} examples: confidence ${show.quality(xs[i])}, ` +
        `quality ${show.quality(ys[i])}`)));
  }
}
