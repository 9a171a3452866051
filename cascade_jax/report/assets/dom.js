// Building blocks: elements, numbers as text, scales. Data enters the page as text nodes and as
// attributes that hold plain text; markup is never parsed.

function build(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat());
  return node;
}

function h(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

function s(tag, attributes = {}, ...children) {
  return build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

// What other scripts add: parts of the page by the id of their place, what is drawn anew when the
// width changes, rows of an example's card, and keys above the examples.
const extra = { parts: {}, draws: [], rows: [], keys: [] };

const isKnown = (value) => value !== null && value !== undefined;

const PREFIXES = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""],
  [1e-3, "m"], [1e-6, "µ"]];

// The prefix in which the largest of some values is best shown; currencies have none.
function prefixOf(largest, unit) {
  const takes = unit === "FLOPs" || unit === "s";
  return (takes && PREFIXES.find(([scale]) => Math.abs(largest) >= scale)) || [1, ""];
}

const show = {
  quality: (v) => (isKnown(v) ? v.toFixed(3) : "–"),
  percent: (v) => (Number.isFinite(v) ? `${(100 * v).toFixed(1)} %` : "–"),
  // 2.21 M (FLOPs), 25 ms, 3.4 (of a currency).
  cost: (v, unit) => {
    if (!isKnown(v)) return "–";
    const [scale, prefix] = prefixOf(v, unit);
    return `${Number((v / scale).toPrecision(3))} ${prefix}${unit === "s" ? unit : ""}`.trim();
  },
  // The shortest number of the same float32, as reports write it: who types it gets this threshold.
  tau: (v) => {
    if (!isKnown(v)) return "−∞";
    const digits = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    const isSame = (d) => Math.fround(Number(v.toPrecision(d))) === Math.fround(v);
    return String(Number(v.toPrecision(digits.find(isSame) ?? 9)));
  },
  // Counts are means over orders where scores are tied, and then no whole numbers.
  count: (v) => v.toLocaleString("en", { maximumFractionDigits: 1 }),
};

// A linear map with round ticks: scale(value) is a coordinate, scale.ticks are values.
function linear(low, high, from, to, numTicks = 5) {
  if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
  const scale = (value) => from + ((value - low) / (high - low)) * (to - from);
  const rough = (high - low) / numTicks;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999);
  scale.ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++)
    scale.ticks.push(Number((i * step).toPrecision(12)));
  return scale;
}

// An SVG path through points, broken where one is unknown.
function through(xs, ys) {
  let path = "";
  let isDown = false;
  xs.forEach((x, i) => {
    const there = isKnown(x) && isKnown(ys[i]);
    if (there) path += `${isDown ? "L" : "M"}${x.toFixed(1)} ${ys[i].toFixed(1)}`;
    isDown = there;
  });
  return path;
}

const extent = (values) => {
  const known = values.filter(isKnown);
  return [Math.min(...known), Math.max(...known)];
};

// Text of an element, which is compressed where it is long.
async function textOf(element) {
  if (element.dataset.encoding !== "gzip") return element.textContent;
  const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(plain).text();
}
