const OPEN_CARDS = 3; // more than these, and only the first is open

function renderVerdict() {
  byId("verdict").classList.add(data.aligned ? "good" : "bad");
  byId("verdict-mark").textContent = data.aligned ? "✓" : "✕";
  byId("verdict-lead").replaceChildren(...verdictLead());
  const setting = (...names) => names.map((name) => data.settings[name]).find((value) => value !== undefined);
  const facts = [
    ["Compared", plural(data.coverage.compared, "tap")],
    ["Not compared", plural(data.coverage.not_compared, "tap")],
    ["Exporter", setting("exporter")],
    [data.candidates.length ? "Candidate" : "Backend", setting("candidate", "backend")],
    ["Provider", setting("providers", "provider")],
    ["Optimisation", setting("optimization", "optimisation")],
  ].filter(([, value]) => value !== undefined && value !== null);
  byId("facts").replaceChildren(...facts.map(([term, value]) =>
    el("div", {}, el("dt", {}, term), el("dd", {}, settingText(value)))));
}

function verdictLead() {
  if (data.settings.passes || (data.candidates.length && !data.culprits.length)) return [capitalised(data.verdict_line.replace(/^.*?: /, "")), "."];
  const [first, ...others] = data.culprits;
  if (data.aligned) {
    const blind = data.outputs.length && data.outputs.every((output) => output.verdict === "skipped");
    const agreed = samples.length ? `All ${plural(samples.length, "sample")} agree with PyTorch at every compared tap.`
      : "Every compared tap agrees with PyTorch.";
    return [agreed, blind ? " No output could be compared." : ""];
  }
  if (!first && samples.some((sample) => sample.aligned === null)) return ["Not every sample could be compared; the others agree with PyTorch."];
  if (!first) return ["The deployed model disagrees with PyTorch; no single layer could be blamed."];
  const { operation, meaning } = data.culprit_words[0];
  const more = others.length ? `, and ${plural(others.length, "more culprit")}` : "";
  const failing = samples.filter((sample) => sample.aligned === false).length;
  const count = samples.length ? `${plainNumber.format(failing)} of ${plural(samples.length, "sample")} ${failing === 1 ? "fails" : "fail"}. ` : "";
  return [`${count}The error enters at `, el("strong", { class: "mono" }, first.module || ROOT),
    `${operation ? ` (${operation})` : ""}${more}: ${meaning || first.cause}.`];
}

function renderCulprits() {
  const count = data.culprits.length;
  if (!count) return;
  byId("culprits").hidden = false;
  if (count === 1) byId("culprits-title").textContent = "Culprit";
  else byId("culprits-title").append(el("small", {}, `${count} independent places, in execution order`));
  byId("culprit-list").append(...data.culprits.map(culpritCard));
}

function culpritCard(culprit, index) {
  const words = data.culprit_words[index];
  const row = tapIndex.get(culprit.tap);
  const open = index === 0 || data.culprits.length <= OPEN_CARDS;
  return el("details", { class: "card culprit", id: `culprit-${index}`, open }, culpritSummary(culprit, words, row),
    el("div", { class: "culprit-body" },
      el("div", { class: "culprit-case" }, sourceBlock(culprit), ...reasons(culprit, words), ...experiments(culprit)),
      el("div", { class: "culprit-side" }, ...remedy(culprit, words), ...cost(culprit, words), ...repro(words),
        ...places(culprit, row))));
}

function culpritSummary(culprit, words, row) {
  return el("summary", {},
    el("span", { class: "culprit-name mono" }, culprit.module || ROOT),
    words.module_type ? el("span", { class: "culprit-type" }, words.module_type) : null,
    words.operation ? el("span", { class: "tag mono" }, words.operation) : null,
    el("span", { class: "culprit-figure" }, culpritFigure(row)),
    el("span", { class: "culprit-cause" },
      el("span", { class: "badge v-introduced" }, culprit.cause),
      el("span", { class: `confidence c-${culprit.confidence}` }, `${culprit.confidence} confidence`)));
}

function culpritFigure(row) {
  if (row === undefined || layers.introduced_max_abs[row] === null) return "";
  const times = noiseRatio(row);
  const beyond = times === null || times === Infinity ? "" : `, ${ratio(times)} its noise floor`;
  return `introduces ${number(layers.introduced_max_abs[row])}${beyond}`;
}

function sourceBlock({ source, source_line: text }) {
  if (!source && !text) return null;
  const place = source ? [mono(source), copyButton(source, "the place in the source")] : [];
  return el("figure", { class: "source" }, el("figcaption", {}, ...place),
    text ? el("pre", {}, el("code", {}, text)) : null);
}

function reasons(culprit, words) {
  const sentence = words.meaning || culprit.cause;
  return [el("h3", {}, "Cause"),
    el("p", { class: "meaning" }, `${sentence.slice(0, 1).toUpperCase()}${sentence.slice(1)}.`),
    el("ul", {}, ...culprit.evidence.map((line) => el("li", {}, line)))];
}

function experiments(culprit) {
  if (!culprit.experiments.length) return [];
  const line = ({ name, error, reading }) => el("tr", {}, el("th", { scope: "row" }, name),
    el("td", { class: "num" }, number(error)), el("td", {}, reading));
  const head = ["Experiment", "Error", "Reading"].map((label, i) =>
    el("th", { scope: "col", class: i === 1 ? "num" : null }, label));
  return [el("h3", {}, "What was tried"), el("table", { class: "experiments" },
    el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...culprit.experiments.map(line)))];
}

function remedy(culprit, { symptom, how_to: address }) {
  const blocks = [];
  if (culprit.advice) blocks.push(el("p", { class: "advice" }, culprit.advice));
  if (symptom) blocks.push(el("p", { class: "how-to" }, "How-to: ", howTo(symptom, address)));
  return blocks.length ? [el("h3", {}, "What to do"), ...blocks] : [];
}

// The README lies with the project, not beside this file: a link only where its address is complete.
function howTo(symptom, address) {
  if (/^https?:/.test(address)) return el("a", { href: address, rel: "noreferrer" }, symptom);
  return el("span", { title: address }, `“${symptom}” in `, mono(address));
}

function cost(culprit, { share }) {
  if (!share) return [];
  return [el("h3", {}, "What it costs"), meter(culprit.output_share, "bad"), el("p", {}, `${share}.`)];
}

function repro({ command }) {
  if (!command) return [];
  const shown = el("code", {}, command);
  return [el("h3", {}, "Reproduce ", el("small", {}, "in the report’s folder")),
    el("div", { class: "command" }, shown, copyButton(command, "the repro command", shown))];
}

function places(culprit, row) {
  const nodes = culprit.onnx_nodes.map((node) => el("li", { class: "mono" }, node));
  const link = button("Copy link", "ghost", async () => {
    link.textContent = (await copied(pageLink("culprit", culprit.tap))) ? "Copied" : "Not allowed";
    setTimeout(() => { link.textContent = "Copy link"; }, 1800);
  });
  return [
    ...(nodes.length ? [el("h3", {}, nodes.length === 1 ? "ONNX node" : "ONNX nodes"), el("ul", { class: "nodes" }, ...nodes)] : []),
    el("h3", {}, "Tap"), el("p", { class: "mono" }, culprit.tap),
    el("div", { class: "culprit-tools" },
      row === undefined ? null : button("Show in layers", "primary", () => revealRow(row, { open: true, page: true })), link),
  ];
}

// Opens and marks the card of that tap; false if there is none.
function revealCulprit(tap) {
  const index = data.culprits.findIndex((culprit) => culprit.tap === tap);
  if (index < 0) return false;
  const card = byId(`culprit-${index}`);
  for (const other of byId("culprit-list").children) other.classList.toggle("linked", other === card);
  card.open = true;
  card.scrollIntoView({ block: "start" });
  card.querySelector("summary").focus({ preventScroll: true });
  return true;
}
