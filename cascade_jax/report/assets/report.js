// Puts the live parts on the page. Only when all of them stand are the pictures hidden that they
// replace, so that a browser which can not run this keeps the whole report.

function start() {
  const [chart, drawChart] = mainChart();
  const [charts, drawDistributions] = distributions();
  const parts = {
    explore: [controls(), h("div", { class: "explore" },
      h("div", {}, chart, legend(), numbers()), readout()),
      charts],
    multiples: [multiples()],
    browser: [browser()],
    ...Object.fromEntries(Object.entries(extra.parts).map(([id, made]) => [id, made()])),
  };
  for (const [id, nodes] of Object.entries(parts)) {
    const host = document.getElementById(id);
    if (host) host.append(...nodes);
  }
  const draw = () => [drawChart, drawDistributions, ...extra.draws].forEach((part) => part());
  isLive(true);
  draw();
  listeners.push(draw);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (width !== window.innerWidth) draw();
    width = window.innerWidth;
  });
}

const isLive = (is) => document.documentElement.classList.toggle("live", is);

try {
  start();
} catch (error) {
  isLive(false);
  for (const id of ["explore", "multiples", "browser", ...Object.keys(extra.parts)])
    document.getElementById(id)?.replaceChildren();
  throw error;
}
