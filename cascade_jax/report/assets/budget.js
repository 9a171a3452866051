// Budgets and live cascades: cost and quality against α, deferrals by position, the writer of each token.

// A line of means with markers, and a band from the lowest to the highest where there is one.
function drawSpread(svg, x, y, alphas, spreads, i) {
  [alphas, spreads] = [alphas.filter((_, k) => isKnown(spreads[k][0])),
    spreads.filter((spread) => isKnown(spread[0]))];
  if (!alphas.length) return;
  const edge = (at) => spreads.map((spread) => y(spread[at]));
  const xs = alphas.map(x);
  const band = xs.map((px, k) => `${px.toFixed(1)} ${edge(1)[k].toFixed(1)}`)
    .concat(xs.map((px, k) => `${px.toFixed(1)} ${edge(2)[k].toFixed(1)}`).reverse());
  svg.append(s("path", { d: `M${band.join("L")}Z`, class: `spread c${i}` }),
    s("path", { d: through(xs, edge(0)), class: `${seriesClass(i)} chosen` }));
  spreads.forEach(([mean, low, high], k) => {
    const range = low === high ? "" : `, ${show.quality(low)} to ${show.quality(high)}`;
    const point = marker(i, xs[k], edge(0)[k]);
    point.append(s("title", {}, `α ${alphas[k]}: ${show.quality(mean)}${range}`));
    svg.append(point);
  });
}

const alphaRange = (b) => [Math.min(0, 1.05 * b.alphas[0]), 1.05 * Math.max(b.alphas.at(-1), 0)];

function budgetScales(svg, values, size, b, titles) {
  const box = cleared(svg, size);
  const [least, most] = extent(values);
  const pad = Math.max(0.06 * (most - least), 0.002);
  const x = linear(...alphaRange(b), box.left, box.right, 5);
  const y = linear(least === 0 ? 0 : least - pad, most + pad, box.bottom, box.top, 5);
  svg.append(...axes(box, x, y, { xText: String, yText: String, xTitle: "budget α", ...titles }));
  return [x, y, box];
}

function drawBudgetRisk(svg, b, size) {
  const [low, high] = alphaRange(b);
  const titles = { yTitle: b.risk_label };
  const [x, y] = budgetScales(svg, [...b.risk.flat(), low, high], size, b, titles);
  svg.append(s("path", { class: "limit", d: through([x(low), x(high)], [y(low), y(high)]) }));
  drawSpread(svg, x, y, b.alphas, b.risk, 0);
  if (b.repeats > 1)
    for (const [alpha, value] of b.risks)
      if (isKnown(value))
        svg.append(s("circle", { cx: x(alpha), cy: y(value), r: 2, class: "repeat" }));
}

function drawBudgetQuality(svg, b, metric, size) {
  const others = Object.entries(b.baselines).map(([name, by]) => [name, by[metric]]);
  const ends = b.ends.map((end) => end[metric]);
  const all = [...b.quality[metric].flat(), ...others.flatMap(([, values]) => values), ...ends];
  const [x, y, box] = budgetScales(svg, all, size, b, { yTitle: `mean ${metric}` });
  ends.forEach((value, i) => isKnown(value) && svg.append(s("line", { x1: box.left,
    x2: box.right, y1: y(value), y2: y(value), class: i ? "ideal" : "random" })));
  others.forEach(([, values], i) => {
    const ys = values.map((value) => (isKnown(value) ? y(value) : null));
    svg.append(s("path", { d: through(b.alphas.map(x), ys), class: seriesClass(i + 1),
      "stroke-dasharray": dash(i + 1) }));
    values.forEach((value, k) => isKnown(value) &&
      svg.append(marker(i + 1, x(b.alphas[k]), ys[k])));
  });
  drawSpread(svg, x, y, b.alphas, b.quality[metric], 0);
}

function budgets() {
  const b = data.budget;
  let metric = b.metrics[0];
  const at = (values) => values.map((value, i) =>
    `α ${b.alphas[i]}: ${show.quality(Array.isArray(value) ? value[0] : value)}`).join("; ");
  const [risk, drawRisk] = smallChart(() => `${b.risk_label} against the budget. ${at(b.risk)}.`,
    (svg, size) => drawBudgetRisk(svg, b, { ...size, height: 300 }));
  const [quality, drawQuality] = smallChart(() => `Mean ${metric} against the budget. ` +
    [`${b.name}: ${at(b.quality[metric])}`, ...Object.entries(b.baselines).map(([name, by]) =>
      `${name.replaceAll("_", " ")}: ${at(by[metric])}`)].join(". "),
  (svg, size) => drawBudgetQuality(svg, b, metric, { ...size, height: 300 }));
  const choice = b.metrics.length > 1 ? h("div", { class: "controls" }, select("Quality",
    b.metrics.map((name) => [name, name]), metric, (name) => {
      metric = name;
      drawQuality();
    })) : "";
  const legendBox = h("div", { class: "legend" }, namedLine("limit", "budget line"),
    h("span", {}, swatch(0), b.name + (b.repeats > 1 ? `, mean of ${b.repeats} repeats` : "")),
    Object.keys(b.baselines).map((name, i) => h("span", {}, swatch(i + 1),
      `${name.replaceAll("_", " ")}, ${name === "oracle" ? "in hindsight" : "equal cost"}`)),
    namedLine("ideal", "large model alone"), namedLine("random", "small model alone"));
  extra.draws.push(drawRisk, drawQuality);
  return h("div", {}, choice, h("div", { class: "pair" }, risk, quality), legendBox);
}

function drawPositions(svg, live, size) {
  const box = cleared(svg, size);
  const shares = live.by_position;
  const x = linear(0.5, shares.length + 0.5, box.left, box.right, 8);
  x.ticks = x.ticks.filter(Number.isInteger);
  const y = linear(0, Math.max(...shares, 0.01), box.bottom, box.top, 4);
  const yText = (v) => `${Number((100 * v).toPrecision(3))} %`;
  svg.append(...axes(box, x, y, { xText: String, yText, yTitle: "deferred, of the tokens there",
    xTitle: "position of the token in the answer" }));
  shares.forEach((share, i) => {
    if (!share) return;
    const left = x(i + 0.6);
    svg.append(s("rect", { class: "bar right", x: left, width: Math.max(x(i + 1.4) - left, 0.5),
      y: y(share), height: Math.max(y(0) - y(share), 0) },
    s("title", {}, `token ${i + 1}: ${show.percent(share)} of ${show.count(live.reached[i])}`)));
  });
}

function positions() {
  const known = () => (data.live[state.name] ? state.name : Object.keys(data.live)[0]);
  const caption = h("figcaption");
  const [chart, draw] = smallChart(() => {
    const shares = data.live[known()].by_position;
    return `Share of deferrals by position, ${known()}: ` + shares.slice(0, 40).map((share, i) =>
      `${i + 1}: ${show.percent(share)}`).join(", ");
  }, (svg, size) => {
    caption.textContent = `Share of deferrals by position, ${known()}`;
    drawPositions(svg, data.live[known()], size);
  });
  extra.draws.push(draw);
  return h("figure", {}, caption, chart);
}

// Who wrote a token stands in its colour, its line and its title; its number is the uncertainty.
function writtenBy(text, isLarge, uncertainty) {
  const model = isLarge ? "large" : "small";
  const title = `${model} model; uncertainty of the small one ${uncertainty.toFixed(3)}`;
  return numbered(text, `by-${model}`, title, short(uncertainty));
}

function mixedAnswer(live) {
  const by = live.deferred.filter(Boolean).length;
  return h("div", { class: "tokens" }, h("span", { class: "hidden" },
    `${by} of ${live.deferred.length} tokens by the large model: `), live.pieces.map((piece, i) =>
    writtenBy(piece.replaceAll("▁", " "), live.deferred[i], live.uncertainties[i])), moreTokens(live));
}

if (data.budget) extra.parts.budgets = () => [budgets()];
if (data.live) {
  extra.parts.positions = () => [positions()];
  extra.rows.push((answer) => (answer.live
    ? ["live cascade", verdict(answer.live.quality), mixedAnswer(answer.live)] : null));
  extra.keys.push(() => h("p", { class: "soft tokens" }, "Tokens of live cascades by ",
    h("span", { class: "token by-small" }, "the small model"), " ",
    h("span", { class: "token by-large" }, "the large model"),
    "; each says how unsure the small model was."));
}
