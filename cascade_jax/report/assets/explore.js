// One state (panel, cascade, point of its curve) and all that follows it when it moves.

const data = JSON.parse(await textOf(document.getElementById("data")));
for (const panel of data.panels)
  for (const c of Object.values(panel.cascades)) {
    // What follows from other columns is left out of the data.
    c.rate = c.ks.map((k) => k / panel.num_examples);
    c.is_realised ??= c.ks.map(() => true);
    c.rate_at_threshold ??= c.rate;
    c.oracle_cost ??= c.cost;
  }
const state = { panel: 0, name: data.best, point: data.start, axis: "cost" };
const listeners = []; // called after every change of the state

function follow(listener) {
  listeners.push(listener);
  listener();
}

const panelNow = () => data.panels[state.panel];
const cascadeNow = () => panelNow().cascades[state.name];
const tauNow = () => cascadeNow().thresholds[state.point];

function change(changes) {
  const [tau, rate] = [tauNow(), cascadeNow().rate[state.point]];
  Object.assign(state, changes);
  // The threshold stays when the panel changes: the first point that defers all that it does.
  // Another cascade has scores of its own, so there it is the share deferred that stays.
  const { thresholds, rate: rates } = cascadeNow();
  if ("name" in changes) state.point = nearest(rates, rate);
  else if ("panel" in changes)
    state.point = thresholds.findIndex((other) => !isKnown(other) || (isKnown(tau) && other <= tau));
  listeners.forEach((listener) => listener());
}

const KINDS = { pooled: "all tasks pooled", task: "task", mean: "task, by mean of examples",
  group: "group" };

function select(label, options, value, onchange) {
  const list = h("select", { onchange: (event) => onchange(event.target.value) },
    options.map(([key, text]) => h("option", { value: key }, text)));
  list.value = value;
  return h("label", { class: "control" }, h("span", {}, label), list);
}

function controls() {
  const panels = data.panels.map((panel, i) => [String(i),
    `${panel.title} (${panel.kind === "task" ? "" : `${KINDS[panel.kind]}, `}` +
    `${show.count(panel.num_examples)})`]);
  const chosenPanel = select("Panel", panels, "0", (value) => change({ panel: Number(value) }));
  const cascade = select("Cascade", data.names.map((name) => [name, name]), state.name,
    (name) => change({ name }));
  const axis = select("Across", [["cost", "cost"], ["rate", "share deferred"]], "cost",
    (value) => change({ axis: value }));
  listeners.push(() => {
    chosenPanel.querySelector("select").value = String(state.panel);
    cascade.querySelector("select").value = state.name;
  });
  return h("div", { class: "controls" }, chosenPanel, cascade, axis);
}

const lineKey = (attributes, ...marks) => s("svg", { viewBox: "0 0 34 12", width: 34, height: 12,
  "aria-hidden": "true" }, s("path", { d: "M0 6H34", ...attributes }), ...marks);
const swatch = (i) =>
  lineKey({ class: seriesClass(i), "stroke-dasharray": dash(i) }, marker(i, 17, 6));
const namedLine = (name, text) => h("span", {}, lineKey({ class: name }), text);

function legend() {
  const box = h("div", { class: "legend" });
  follow(() => box.replaceChildren(
    ...data.names.map((name, i) => h("button", { type: "button", onclick: () => change({ name }),
      "aria-pressed": String(name === state.name) }, swatch(i), name,
    h("span", { class: "soft" }, `area ${show.quality(panelNow().cascades[name].area)}`))),
    namedLine("random", "random"), panelNow().is_corpus ? "" : namedLine("ideal", "ideal"),
    namedLine("oracle", panelNow().is_corpus ? "largest gain first" : "oracle"),
    state.axis === "cost" ? h("span", {}, "☆ large model alone") : "",
    panelNow().points ? h("span", {}, "✖ certified policy") : ""));
  return box;
}

const costNow = (value) => show.cost(value, panelNow().cost_unit);

// The words for a point that a screen reader says, and that a chart has as its text.
function words() {
  const c = cascadeNow();
  const i = state.point;
  return `τ ${show.tau(c.thresholds[i])}: ${show.percent(c.rate[i])} deferred, cost ` +
    `${costNow(c.cost[i])} ${panelNow().cost_label}, quality ${show.quality(c.quality[i])}`;
}

function slider() {
  const range = h("input", { type: "range", id: "tau", min: 0, step: 1,
    oninput: (event) => change({ point: Number(event.target.value) }) });
  follow(() => {
    range.max = cascadeNow().rate.length - 1;
    range.value = state.point;
    range.setAttribute("aria-valuetext", words());
  });
  return h("div", { class: "slider" }, h("label", { for: "tau" }, "Threshold τ: to the right " +
    "more is deferred (also by arrow keys)"), range);
}

function readout() {
  const box = h("div", { class: "readout", id: "readout" });
  // Said once the slider rests, not at every step of a drag.
  const said = h("p", { class: "hidden", role: "status", "aria-live": "polite" });
  let waiting = null;
  follow(() => {
    const [c, i, panel] = [cascadeNow(), state.point, panelNow()];
    const large = c.cost.at(-1) - c.cost[0];
    const tile = (key, name, value, under) => h("div", {}, h("dt", {}, name),
      h("dd", { "data-figure": key }, value), h("dd", { class: "soft" }, under));
    box.replaceChildren(
      h("dl", {},
        tile("tau", "τ", show.tau(c.thresholds[i]), i ? "defer scores above it" : "defer none"),
        tile("rate", "deferred", show.percent(c.rate[i]),
          `${show.count(Math.round(c.rate[i] * panel.num_examples))} of ` +
          show.count(panel.num_examples)),
        tile("cost", "cost", costNow(c.cost[i]),
          `${panel.cost_label.split(" (")[0]}; ${show.percent(c.cost[i] / large)} of the ` +
          "large model's"),
        tile("quality", "quality", show.quality(c.quality[i]),
          `${show.percent(c.quality[i] / c.quality.at(-1))} of the large model's`),
        panel.is_corpus ? "" : tile("a1", "A1", show.quality(c.a1[i]), "from kept answers"),
        panel.is_corpus ? "" : tile("a2", "A2", show.quality(c.a2[i]), "from the large model")),
      confusionTable(c, i, panel.num_examples),
      h("p", { class: "soft" }, `Deferring corrects ${show.count(c.corrected[i])} wrong answers; ` +
        `${show.count(c.regressed[i])} right ones regress.` + (panel.is_graded
        ? ` Quality is graded: right is a quality of at least ${data.right_from}.` : "")),
      c.is_realised[i] ? "" : h("p", { class: "soft", "data-figure": "tied" }, "Scores are tied " +
        `here: this τ itself defers ${show.percent(c.rate_at_threshold[i])}. The figures are ` +
        "means over the orders of the tied."));
    clearTimeout(waiting);
    waiting = setTimeout(() => (said.textContent = words()), 500);
  });
  return h("div", {}, slider(), box, said);
}

function confusionTable(c, i, n) {
  const cell = (key) => h("td", { "data-figure": key }, show.count(c[key][i]), " ",
    h("small", {}, show.percent(c[key][i] / n)));
  const head = (text, scope) => h("th", { scope }, text);
  return h("table", { class: "confusion" },
    h("caption", {}, "Answers of the small model"),
    h("thead", {}, h("tr", {}, h("td"), head("kept", "col"), head("deferred", "col"))),
    h("tbody", {}, ["right", "wrong"].map((kind) => h("tr", {}, head(kind, "row"),
      cell(`${kind}_kept`), cell(`${kind}_deferred`)))));
}

// The curves of the panel as a table, at every tenth.
function numbers() {
  const box = h("details", {}, h("summary", {}, "Numbers of this chart"));
  const fill = () => {
    if (!box.open) return;
    const rates = Array.from({ length: 11 }, (_, i) => i / 10);
    const rows = data.names.map((name) => {
      const c = panelNow().cascades[name];
      return h("tr", {}, h("th", { scope: "row" }, name),
        rates.map((rate) => h("td", {}, show.quality(c.quality[nearest(c.rate, rate)]))));
    });
    box.replaceChildren(box.firstChild, h("div", { class: "wide" }, h("table", {},
      h("caption", {}, `Quality (${panelNow().metric}) by share deferred, ${panelNow().title}`),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "cascade"),
        rates.map((rate) => h("th", { scope: "col" }, show.percent(rate))))),
      h("tbody", {}, rows))));
  };
  box.addEventListener("toggle", fill);
  listeners.push(fill);
  return box;
}

function mainChart() {
  const tip = h("div", { class: "tip", hidden: true });
  const svg = s("svg", { class: "chart", id: "curve", tabindex: 0, role: "slider",
    "aria-valuemin": 0 });
  const host = h("div", { class: "host" }, svg, tip);
  let scales = null;
  const draw = () => {
    const width = Math.max(host.clientWidth, 300);
    const height = Math.min(Math.max(0.68 * width, 260), 460);
    scales = drawCurves(svg, panelNow(), { width, height, axis: state.axis, chosen: state.name,
      point: state.point });
    svg.setAttribute("aria-label", `Quality against ${state.axis} of ${data.names.length} ` +
      `cascades, ${panelNow().title}. Arrow keys move the threshold of ${state.name}.`);
    svg.setAttribute("aria-valuemax", cascadeNow().rate.length - 1);
    svg.setAttribute("aria-valuenow", state.point);
    svg.setAttribute("aria-valuetext", words());
  };
  const under = (cascade, event) => {
    const at = (event.clientX - svg.getBoundingClientRect().left);
    return nearest(scales.values(cascade).map(scales.x), at);
  };
  const explain = (indexOf, left) => {
    tip.replaceChildren(h("table", {}, h("tr", {}, ["", "τ", "deferred", "cost", "quality"]
      .map((text) => h("th", {}, text))), data.names.map((name, number) => {
      const c = panelNow().cascades[name];
      const i = indexOf(c);
      return h("tr", {}, h("th", {}, swatch(number), ` ${name}`), [show.tau(c.thresholds[i]),
        show.percent(c.rate[i]), costNow(c.cost[i]), show.quality(c.quality[i])]
        .map((text) => h("td", {}, text)));
    })));
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(left, host.clientWidth - tip.offsetWidth))}px`;
  };
  const explainHere = () => {
    const here = scales.values(cascadeNow())[state.point];
    explain((c) => nearest(scales.values(c), here), scales.x(here) + 12);
  };
  const hide = () => (tip.hidden = true);
  const KEYS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 20,
    PageDown: -20, Home: -Infinity, End: Infinity };
  svg.addEventListener("pointermove", (event) => explain((c) => under(c, event),
    event.clientX - svg.getBoundingClientRect().left + 12));
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("click", (event) => change({ point: under(cascadeNow(), event) }));
  svg.addEventListener("focus", () => svg.matches(":focus-visible") && explainHere());
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    const last = cascadeNow().rate.length - 1;
    change({ point: Math.min(Math.max(state.point + KEYS[event.key], 0), last) });
    explainHere();
  });
  return [host, draw];
}

function smallChart(describe, drawWith) {
  const svg = s("svg", { class: "chart", role: "img" });
  const host = h("div", { class: "host" }, svg);
  return [host, () => {
    svg.setAttribute("aria-label", describe());
    drawWith(svg, { width: Math.max(host.clientWidth, 280), height: 250 });
  }];
}

function distributions() {
  const title = `deferral score: ${data.score}`;
  const [scores, drawScores] = smallChart(() => {
    const c = cascadeNow();
    return `Histogram of scores of ${state.name}: of the right answers ` +
      `${show.count(c.right_deferred[state.point])} lie above τ, of the wrong ones ` +
      `${show.count(c.wrong_deferred[state.point])}.`;
  }, (svg, size) => drawHistogram(svg, cascadeNow(), tauNow(), { ...size, title }));
  const [calibrated, drawCalibrated] = smallChart(() => {
    const { confidence, quality, count } = cascadeNow().reliability.before;
    return "Reliability: " + count.flatMap((n, i) => (n ? [`confidence ` +
      `${show.quality(confidence[i])}, quality ${show.quality(quality[i])}`] : [])).join("; ");
  }, (svg, size) => drawReliability(svg, cascadeNow().reliability, size));
  const caption = h("figcaption");
  const right = h("figure", {}, caption, calibrated);
  const draw = () => {
    drawScores();
    const { before, after, ece, ece_scaled: scaled } = cascadeNow().reliability;
    right.hidden = !before;
    if (!before) return;
    caption.textContent = `Reliability, ECE ${show.quality(ece)}` +
      (after ? `; hollow: after temperature scaling, ${show.quality(scaled)}` : "");
    drawCalibrated();
  };
  return [h("div", { class: "pair" }, h("figure", {}, h("figcaption", {},
    "Deferral scores of right and of wrong answers; shaded: deferred"), scores), right), draw];
}

function multiples() {
  const buttons = data.panels.map((panel, i) => {
    const svg = s("svg", { class: "chart", "aria-hidden": "true" });
    drawCurves(svg, panel, { width: 210, height: 130, axis: "cost", isSmall: true,
      chosen: data.best });
    const areas = data.names.map((name) => `${name} ${show.quality(panel.cascades[name].area)}`);
    return h("button", { type: "button", class: "multiple", "data-panel": i,
      onclick: () => change({ panel: i }),
      "aria-label": `Show ${panel.title}, ${KINDS[panel.kind]}: areas ${areas.join(", ")}` },
    h("b", {}, panel.title), h("small", {}, `${panel.metric}, ${show.count(panel.num_examples)}`),
    svg);
  });
  follow(() => buttons.forEach((button, i) =>
    button.setAttribute("aria-pressed", String(i === state.panel))));
  const note = "As above, each with a scale of its own. The threshold stays when you choose one.";
  return h("div", {}, h("p", { class: "soft" }, note),
    h("div", { class: "multiples", role: "group", "aria-label": "Panels" }, buttons));
}
