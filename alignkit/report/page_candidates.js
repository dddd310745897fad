const MATRIX_ROWS = 40;
const MOST_MATRIX_ROWS = 2000;

const capitalised = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function renderCandidates() {
  const { candidates } = data;
  if (!candidates.length) return;
  byId("candidates").hidden = false;
  byId("candidates-shown").textContent = `the rest of this page is of ${data.settings.candidate}`;
  const head = ["Candidate", "Verdict", "Compared", "First culprit", "Cause", "Worst layer", "× noise floor", "Output max abs"];
  const numeric = (index) => ([2, 6, 7].includes(index) ? "num" : null);
  const rows = candidates.map((candidate) => el("tr", {}, ...candidateCells(candidate).map((cell, index) =>
    el(index ? "td" : "th", { class: numeric(index), scope: index ? null : "row" }, cell))));
  byId("candidates-table").append(
    el("thead", {}, el("tr", {}, ...head.map((label, index) => el("th", { scope: "col", class: numeric(index) }, label)))),
    el("tbody", {}, ...rows));
  renderMatrix(false);
  byId("matrix-box").open = data.culprits.length === 0; // where there is a diagnosis, it comes first
}

function candidateCells(candidate) {
  const verdict = el("span", {}, candidateBadge(candidate.aligned),
    candidate.reason ? el("span", { class: "output-reason" }, candidate.reason) : null);
  const name = mono(candidate.name);
  if (candidate.aligned === null) return [name, verdict, "–", "–", "–", "–", "–", "–"];
  return [name, verdict, `${candidate.compared} of ${candidate.taps}`, tapLink(candidate.culprit), candidate.cause ?? "–",
    tapLink(candidate.worst_tap), number(candidate.worst_ratio), number(candidate.output_error)];
}

function candidateBadge(aligned) {
  const [kind, symbol, text] = aligned === null ? ["skipped", "–", "not compared"]
    : aligned ? ["ok", "✓", "aligned"] : ["introduced", "✕", "diverged"];
  return el("span", { class: `badge v-${kind}` }, el("span", { class: "symbol", "aria-hidden": "true" }, symbol), text);
}

function tapLink(tap) {
  if (tap === null) return "–";
  const row = tapIndex.get(tap);
  return row === undefined ? mono(tap) : button(tap, "link mono", () => revealRow(row, { open: true, page: true }));
}

// Every layer of any candidate, in the order of the first that has it.
function matrixTaps(candidates) {
  return [...new Set(candidates.flatMap((candidate) => Object.keys(candidate.layers)))];
}

const isRight = (glance) => glance === undefined || glance.verdict === "ok";

function worstRatio(tap, candidates) {
  return Math.max(...candidates.map((candidate) => candidate.layers[tap]?.noise_ratio ?? 0));
}

function renderMatrix(all) {
  const candidates = data.candidates.filter((candidate) => candidate.aligned !== null);
  const taps = matrixTaps(candidates);
  const wrong = taps.filter((tap) => candidates.some((candidate) => !isRight(candidate.layers[tap])));
  const worst = new Set([...taps].sort((a, b) => worstRatio(b, candidates) - worstRatio(a, candidates)).slice(0, 10));
  const some = wrong.length ? wrong.slice(0, MATRIX_ROWS) : taps.filter((tap) => worst.has(tap));
  const shown = all ? taps.slice(0, MOST_MATRIX_ROWS) : some;
  const part = (rows) => (shown.length < rows.length ? `the first ${shown.length} of ` : "") + plural(rows.length, "layer");
  const what = all ? part(taps)
    : wrong.length ? `${part(wrong)} that not every candidate has right`
      : `the ${plural(some.length, "layer")} farthest from PyTorch; every one is right`;
  byId("matrix-title").textContent = `Layer by layer: ${what}`;
  const more = byId("matrix-all");
  more.hidden = some.length >= taps.length;
  more.textContent = all ? "Fewer" : `All ${plural(taps.length, "layer")}`;
  more.onclick = () => renderMatrix(!all);
  byId("matrix").replaceChildren(
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Layer"),
      ...candidates.map((candidate) => el("th", { scope: "col" }, mono(candidate.name))))),
    el("tbody", {}, ...shown.map((tap) => el("tr", {}, el("th", { scope: "row" }, tapLink(tap)),
      ...candidates.map((candidate) => el("td", {}, ...matrixCell(candidate.layers[tap])))))));
}

function matrixCell(glance) {
  if (glance === undefined) return ["–"];
  const figure = glance.noise_ratio === null ? "" : ` ${number(glance.noise_ratio)}× noise`;
  return [verdictBadge(glance.verdict), el("span", { class: "hint" }, figure)];
}
