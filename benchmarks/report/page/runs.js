"use strict";
// Per-class results of runs, and the record behind every number.

function drawClasses(rows) {
  fill(byId("classes-group"), choices(rows, true));
  const chosen = rows.filter((row) => `${row.group}/${row.resolution}` === byId("classes-group").value);
  const runs = chosen.flatMap((row) => runsOf(row.index).map((run) => ({ run, row })));
  const finished = runs.filter(({ run }) => run.state === "ok");
  const reason = !DATA.rows.length ? NO_RUNS : !rows.length ? NO_MATCH : finished.length ? ""
    : "No run here has finished. Run bench.py --retry-failed.";
  showEmpty("classes", reason, byId("class-auc"), byId("confusion"), byId("class-results"));
  fill(byId("classes-run"), reason ? [] : finished.map(({ run, row }) => ({ value: run.id, text: `${row.label}, seed ${run.seed}` })));
  drawWith("classes", partOf(byId("classes-group")), ({ contents }) => {
    if (!reason) drawClassAuc(chosen, contents);
  });
  drawConfusion();
}

const aucOfClasses = (content) => content.measurements.test?.auc_per_class ?? {};

/** A row a method, a column a class: the mean over seeds. */
function drawClassAuc(rows, contents) {
  const classes = [...new Set(rows.flatMap((row) => runsOf(row.index).flatMap((run) => Object.keys(aucOfClasses(contents[run.id])))))];
  const body = rows.filter((row) => runsOf(row.index).length).map((row) => {
    const cells = classes.map((name) => {
      const values = runsOf(row.index).map((run) => aucOfClasses(contents[run.id])[name]).filter((value) => typeof value === "number");
      return make("td", {}, values.length ? percent(values.reduce((a, b) => a + b) / values.length) : MISSING);
    });
    return make("tr", {}, make("th", { scope: "row" }, row.label), ...cells);
  });
  const head = ["Method", ...classes].map((text) => make("th", { scope: "col" }, text));
  byId("class-auc").replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

function drawConfusion() {
  const run = RUNS.get(byId("classes-run").value);
  drawWith("confusion", run?.part ?? null, (part) => drawResults(run, part));
}

/** A matrix of classes of which each image has one. */
function confusionOf(classes, confusion) {
  const counts = confusion.map((line) => line.reduce((a, b) => a + b));
  const head = make("tr", {}, make("th", { scope: "col" }, "true ↓ predicted →"), ...classes.map((name) => make("th", { scope: "col" }, name)));
  const body = classes.map((name, i) => make("tr", {}, make("th", { scope: "row" }, name), ...confusion[i].map((count, j) => {
    const share = counts[i] ? count / counts[i] : 0;
    const cell = make("td", { title: `${percent(share, 0)} % of true ${name}` }, String(count));
    const grey = Math.round(255 - 175 * share);
    cell.style.background = `rgb(${grey}, ${grey}, ${grey})`;
    cell.style.color = grey < 140 ? "#fff" : "#000";
    if (i === j) cell.style.outline = "2px solid #000";
    return cell;
  })));
  return [make("caption", {}, "Confusion matrix, test images"), make("thead", {}, head), make("tbody", {}, ...body)];
}

function drawResults(run, { contents, classes: known }) {
  const results = known[run?.id];
  const reason = run && !results
    ? `No predictions of this run can be read (${run.id}.predictions.csv beside its record). Run it again with bench.py --overwrite.` : "";
  showEmpty("confusion", reason, byId("confusion"), byId("class-results"));
  if (!results) return;
  const { classes, images } = results;
  const findings = results.confusion === null;
  byId("confusion").replaceChildren(...(findings ? [] : confusionOf(classes, results.confusion)));
  const auc = aucOfClasses(contents[run.id]);
  const lines = classes.map((name, i) => make("tr", {}, make("th", { scope: "row" }, name), ...[
    String(images[i]), percent(results.sensitivity[i]), percent(results.specificity[i]), percent(results.precision[i]), percent(auc[name]),
  ].map((text) => make("td", {}, text))));
  const titles = [findings ? "Finding" : "Class", "Images", "Sensitivity (%)", "Specificity (%)", "Precision (%)", "AUC (%)"];
  byId("class-results").replaceChildren(
    make("caption", {}, findings ? "Results of each finding that can be scored; called where its probability is over 0.5" : "Results of each class; the most probable class counts"),
    make("thead", {}, make("tr", {}, ...titles.map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, ...lines));
}

const lookup = (record, path) => path.split(".").reduce((value, key) => value?.[key] ?? null, record);
const commitOf = (record) => {
  const code = record.run?.code ?? record.code;
  return code?.commit ? code.commit.slice(0, 10) + (code.dirty ? " with uncommitted changes" : "") : "unknown commit";
};
/** The machine's name where the record tells it, else the digest that stands for it. */
const hostOf = ({ environment }) => environment.host ?? (environment.host_id && `host ${environment.host_id}`);
const versionsOf = (record) => ["torch", "timm", "peft", "python"]
  .filter((name) => record.environment[name]).map((name) => `${name} ${record.environment[name]}`).join(", ");

/** A row for each machine and code version, with the number of records that came from them. */
function drawMachines() {
  const seen = new Map();
  for (const machine of DATA.machines) {
    const { device, driver } = machine.environment;
    const line = [machine.kind, device ?? "unknown device", hostOf(machine) ?? MISSING, driver ?? MISSING, versionsOf(machine) || MISSING, commitOf(machine)];
    const key = JSON.stringify(line);
    seen.set(key, { line, count: (seen.get(key)?.count ?? 0) + machine.count });
  }
  const head = ["Records", "Of", "Device", "Host", "Driver", "Versions", "Code"].map((text) => make("th", { scope: "col", className: "text" }, text));
  const body = [...seen.values()].map(({ line, count }) => make("tr", {}, ...[count, ...line].map((text) => make("td", { className: "text" }, String(text)))));
  byId("machines").replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
  showEmpty("records", seen.size ? "" : NO_RUNS, byId("machines"));
  offerRecords([]);
}

/** Fills the choice of records; of all of them not before it is used, as ten thousand take half a second to lay out. */
function offerRecords(names) {
  const some = RUNS.size + DATA.measured.length > 0;
  fill(byId("record-choice"), [{ value: "", text: some ? "choose one" : "none" }, ...names.map((name) => ({ value: name, text: name }))]);
}

function offerAllRecords() {
  const all = [...RUNS.keys(), ...DATA.measured];
  if (byId("record-choice").options.length <= all.length) offerRecords(all);
}

/** The facts of a record that readers ask for; the rest stands in its JSON. */
function factsOf(record) {
  const get = (path) => lookup(record, path);
  const point = record.point;
  const sizes = (phases) => Object.entries(phases ?? {}).filter(([, peaks]) => peaks?.peak_allocated_bytes)
    .map(([phase, peaks]) => `${phase} ${bytes(peaks.peak_allocated_bytes)}`).join(", ");
  const predicted = sizes(get("measurements.predicted_memory.phases"));
  const scores = Object.entries(get("measurements.test") ?? {}).filter(([, value]) => typeof value === "number");
  const weights = [get("run.weights.backbone"), get("run.weights.source") && `weights: ${get("run.weights.source")}`, get("run.weights.note")];
  return [
    ["State", [get("status.state"), get("status.phase"), get("status.message")].filter(Boolean).join(": ")],
    ["Method", get("run.method.title") ?? point?.method],
    ["Data", [get("run.dataset.title"), get("run.config.dataset_digest") && `digest ${get("run.config.dataset_digest").slice(0, 12)}`].filter(Boolean).join(", ")],
    ["Image side", `${get("run.config.resolution") ?? point?.resolution} px`],
    ["Seed", get("run.config.seed")],
    ["Learning rate", get("run.config.lr")],
    ["Backbone", point?.backbone ?? weights.filter(Boolean).join(", ")],
    ["Test scores", scores.map(([name, value]) => `${name.replace(/_/g, " ")} ${value.toFixed(3)}`).join(", ")],
    ["Epoch picked", get("run.selection.best_epoch") && `${get("run.selection.best_epoch")} by ${get("run.selection.metric") ?? "validation"}`],
    ["Memory, measured", sizes(get("measurements.memory.phases") ?? get("memory.phases"))],
    ["Memory, predicted†", predicted && `${predicted}; for a GPU, by the same steps on fake tensors`],
    ["Seconds", Object.entries(get("measurements.seconds") ?? {}).filter(([name]) => ["train", "preload", "total"].includes(name)).map(([name, value]) => `${name} ${value.toFixed(1)}`).join(", ")],
    ["Machine", [get("environment.device"), get("environment.cpu"), hostOf(record), get("environment.driver") && `driver ${get("environment.driver")}`].filter(Boolean).join(", ")],
    ["Versions", versionsOf(record)],
    ["Code", commitOf(record)],
    ["Started", get("run.started") ?? get("started")],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
}

function showRecord(name, scroll) {
  const run = RUNS.get(name);
  const part = run?.part ?? (DATA.measured.includes(name) ? "measured" : null);
  if (part !== null && ![...byId("record-choice").options].some(({ value }) => value === name)) offerRecords([name]);
  byId("record-choice").value = part === null ? "" : name;
  drawWith("record", part, ({ contents }) => {
    if (part === null) byId("record").replaceChildren();
    else drawRecord(name, run, contents[name], scroll);
  });
}

/** Where a record's file lies, as seen from the page. */
const fileOf = (name, run) => `${DATA.folder}${(run ? `runs/${name}` : name).split("/").map(encodeURIComponent).join("/")}.json`;

function drawRecord(name, run, content, scroll) {
  const article = byId("record");
  const siblings = run && run.row !== null ? runsOf(run.row).filter(({ id }) => id !== name) : [];
  const facts = factsOf(content).flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, String(value))]);
  const title = make("h3", { tabIndex: -1 }, name);
  article.replaceChildren(title,
    make("dl", {}, ...facts),
    ...(siblings.length ? [make("p", {}, "Other seeds: ", ...siblings.flatMap(({ id, seed }, i) => [i ? ", " : "", make("a", { href: recordHash(id) }, `seed ${seed}`)]))] : []),
    ...(DATA.folder === null ? [] : [make("p", {}, make("a", { href: fileOf(name, run) }, "Open the stored file"), " (where this page lies beside its results)")]),
    make("details", {}, make("summary", {}, "The record, numbers to six digits"), make("pre", { tabIndex: 0 }, JSON.stringify(content, null, 1))));
  if (scroll) {
    article.scrollIntoView();
    title.focus({ preventScroll: true });
  }
}
