// The sample of examples: filters, and the answers with how sure the small model was of each token.

const PAGE = 10;
const SHORT = 280;

const isRight = (quality) => quality >= data.right_from;
const isDeferred = (answer) => answer.rank < cascadeNow().sample_deferred[state.point];
const CASES = {
  all: ["any answers", () => true],
  right: ["small model right", (e, a) => isRight(a.quality)],
  wrong: ["small model wrong", (e, a) => !isRight(a.quality)],
  corrected: ["only the large model right",
    (e, a) => !isRight(a.quality) && isRight(e.teacher_quality)],
  regressed: ["only the small model right",
    (e, a) => isRight(a.quality) && !isRight(e.teacher_quality)],
  neither: ["both wrong", (e, a) => !isRight(a.quality) && !isRight(e.teacher_quality)],
};
const DECISIONS = { all: ["kept or deferred", () => true], kept: ["kept", (a) => !isDeferred(a)],
  deferred: ["deferred", isDeferred] };
const ORDERS = { none: ["as in the records", () => 0],
  high: ["highest score first", (a, b) => b.score - a.score],
  low: ["lowest score first", (a, b) => a.score - b.score] };

// A long text, cut, with a button that shows the rest of it.
function longText(text) {
  if (text.length <= SHORT) return [text];
  const rest = h("span", {}, `${text.slice(0, SHORT)}… `);
  const more = h("button", { type: "button", class: "link", "aria-expanded": "false",
    onclick: () => {
      const isOpen = more.getAttribute("aria-expanded") === "true";
      rest.textContent = isOpen ? `${text.slice(0, SHORT)}… ` : `${text} `;
      more.textContent = isOpen ? "show more" : "show less";
      more.setAttribute("aria-expanded", String(!isOpen));
    } }, "show more");
  return [rest, more];
}

function verdict(quality) {
  const text = isRight(quality) ? "✓ right" : "✗ wrong";
  return h("span", { class: isRight(quality) ? "right" : "wrong" },
    Number.isInteger(quality) ? text : `${text} (${quality.toFixed(2)})`);
}

function card(example) {
  const answer = example.answers[state.name];
  const row = (name, ...content) => [h("dt", {}, name), h("dd", {}, ...content)];
  return h("article", { class: "card" },
    h("header", {}, h("b", {}, example.task), h("span", { class: "soft" }, example.example_id),
      h("span", { class: "badge" }, isDeferred(answer) ? "deferred" : "kept"),
      h("span", { class: "soft" }, `score ${show.tau(answer.score)}`)),
    h("dl", {}, row("input", ...longText(example.inputs)),
      row("target", ...longText(example.target)),
      row("small model", verdict(answer.quality), tokens(answer), statistics(answer)),
      row("large model", verdict(example.teacher_quality),
        h("div", {}, ...longText(example.teacher_answer))),
      extra.rows.map((build) => build(answer)).filter(isKnown).map((cells) => row(...cells)).flat()));
}

function browser() {
  const filter = { task: "", kind: "all", decision: "all", order: "none", text: "" };
  const { rows, total } = data.examples;
  let shown = PAGE;
  const set = (changes) => {
    Object.assign(filter, changes);
    shown = PAGE;
    fill();
  };
  const options = (known) => Object.entries(known).map(([key, [text]]) => [key, text]);
  const tasks = [...new Set(rows.map((example) => example.task))];
  const search = h("input", { type: "search", id: "search",
    oninput: (event) => set({ text: event.target.value.toLowerCase() }) });
  const hasPieces = rows.some((example) => data.names.some((n) => example.answers[n].pieces ||
    example.answers[n].live));
  const numbers = h("input", { type: "checkbox",
    onchange: () => list.classList.toggle("numbers", numbers.checked) });
  const bar = h("div", { class: "controls" },
    select("Task", [["", "all tasks"], ...tasks.map((task) => [task, task])], "",
      (task) => set({ task })),
    select("Answers", options(CASES), "all", (kind) => set({ kind })),
    select("At this τ", options(DECISIONS), "all", (decision) => set({ decision })),
    select("Order", options(ORDERS), "none", (order) => set({ order })),
    h("label", { class: "control" }, h("span", {}, "Search"), search),
    quantities.length > 1 ? select("Colour tokens by", quantities.map((q, i) => [i, q.name]), 0,
      (i) => {
        coloured.by = Number(i);
        fill();
      }) : "",
    hasPieces ? h("label", { class: "control check" }, numbers, " numbers on tokens") : "");
  const count = h("p", { class: "soft", role: "status", id: "matches" });
  const list = h("div", { class: "cards" });
  const more = h("button", { type: "button", class: "wide-button", onclick: () => {
    shown += PAGE;
    fill();
  } }, "Show more examples");

  function matches(example) {
    const answer = example.answers[state.name];
    const texts = [example.inputs, example.target, answer.text, example.teacher_answer,
      example.example_id];
    return (!filter.task || example.task === filter.task) &&
      CASES[filter.kind][1](example, answer) && DECISIONS[filter.decision][1](answer) &&
      (!filter.text || texts.some((text) => text.toLowerCase().includes(filter.text)));
  }

  const key = h("p", { class: "soft tokens" });

  function fill() {
    key.replaceChildren(...tokenKey());
    const matching = rows.filter(matches);
    if (filter.order !== "none")
      matching.sort((a, b) => ORDERS[filter.order][1](a.answers[state.name], b.answers[state.name]));
    list.replaceChildren(...matching.slice(0, shown).map(card));
    more.hidden = matching.length <= shown;
    const text = `${show.count(matching.length)} match, of ${show.count(rows.length)} drawn evenly ` +
      `by task and by right or wrong from ${show.count(total)} in the records. Cascade ` +
      `${state.name}, τ = ${show.tau(tauNow())}.`;
    if (count.textContent !== text) count.textContent = text;
  }

  let waiting = null;
  listeners.push(() => {
    clearTimeout(waiting);
    waiting = setTimeout(fill, 120);
  });
  fill();
  return h("div", {}, bar, count, key, extra.keys.map((build) => build()), list, more);
}
