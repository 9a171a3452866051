// Tokens of an answer, coloured by a quantity that is selected above the examples.

const quantities = data.examples.token_values;
const coloured = { by: 0 };
const LEVELS = 6; // from none to the strongest colour and the thickest line

const short = (v) => (v === 0 || Math.abs(v) >= 0.095 ? v.toFixed(2)
  : String(Number(v.toPrecision(2)))).replaceAll("-", "−");

// How strongly a value is marked: 0, not at all, to LEVELS - 1 at the marked end and beyond it.
function levelOf(q, value) {
  const [low, high] = q.ends;
  if (!(high > low)) return 0;
  const share = (value - low) / (high - low);
  const level = Math.floor(LEVELS * (q.marked === "low" ? 1 - share : share));
  return Math.min(Math.max(level, 0), LEVELS - 1);
}

// A token with a number above it, that is shown when asked for.
const numbered = (text, name, title, value) => h("ruby", { class: `token ${name}`, title }, text,
  h("rp", {}, " ("), h("rt", {}, value), h("rp", {}, ") "));

function token(text, value) {
  if (!isKnown(value)) return h("span", { class: "token t0" }, text);
  const q = quantities[coloured.by];
  const title = `${q.name} ${value} ${q.unit}`.trim();
  return numbered(text, `t${levelOf(q, value)}`, title, short(value));
}

const moreTokens = (answer) => (answer.more_tokens ? ` … ${answer.more_tokens} more tokens` : "");

function tokens(answer) {
  const values = answer.values[coloured.by];
  if (answer.pieces)
    return h("div", { class: "tokens" }, answer.pieces.map((piece, i) =>
      token(piece.replaceAll("▁", " "), values?.[i])), moreTokens(answer));
  return h("div", {}, h("div", {}, ...longText(answer.text)), values ? h("div", {
    class: "tokens soft" }, `${quantities[coloured.by].name} of each token: `,
  values.flatMap((value) => [token(short(value), value), " "]), moreTokens(answer)) : "");
}

const statistics = (answer) => h("div", { class: "soft statistics" }, "token probabilities: " +
  data.examples.statistics.map((name, i) => `${name} ${short(answer.statistics[i])}`).join(", "));

// The legend: which values have which colour, and the range of the values on the page.
function tokenKey() {
  const q = quantities[coloured.by];
  if (!data.examples.rows.some((example) => example.answers[state.name].values[coloured.by]))
    return [`The records of ${state.name} do not have ${q.name}; their tokens are not coloured.`];
  const note = q.note ? ` (${q.note})` : "";
  const parts = [`Tokens by ${q.name}${q.unit && ` in ${q.unit}`}${note}: `];
  const [low, high] = q.ends;
  if (high > low) {
    const bounds = Array.from({ length: LEVELS + 1 }, (_, i) => low + (i / LEVELS) * (high - low));
    if (q.range[0] < low) bounds[0] = q.range[0];
    if (q.range[1] > high) bounds[LEVELS] = q.range[1];
    const spans = bounds.slice(1).map((bound, i) => h("span", {
      class: `token t${q.marked === "low" ? LEVELS - 1 - i : i}` },
    `${short(bounds[i])} to ${short(bound)}`));
    if (q.marked === "low") spans.reverse();
    parts.push(...spans.flatMap((span) => [span, "  "]));
  }
  const [least, most] = q.range.map(short);
  return [...parts, least === most ? `All are ${least}.` : `Here they go from ${least} to ${most}.`];
}
