"use strict";
// Draws the page from the two JSON elements. Text of the runs only ever becomes text nodes.
(() => {
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("data"), words = read("words"), runs = data.runs;

// Tol's "bright" colours, told apart also by the colour-blind; dashes once they are used up.
const COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888"];
const DASHES = [[], [8, 4], [2, 3], [12, 3, 2, 3]];
const VALIDATION = ["eval_bits_per_byte", "eval_loss", "eval_perplexity", "eval_accuracy", "eval_nats_per_character",
  "eval_samples_repeating", "eval_samples_distinct_4", "eval_samples_longest_run", "eval_samples_punctuation", "eval_samples_zip"];
const TRAINING = ["loss", "learning_rate", "grad_norm", "update_ratio", "tokens_per_second", "share_of_peak", "memory_gb"];
const PER_TOKEN = ["eval_loss", "eval_perplexity", "eval_accuracy", "loss"];
const AXES = ["tokens", "flops", "hours"];

const state = {
  language: (navigator.language || "en").startsWith("zh") ? "zh" : "en",
  axis: "tokens", validation: "eval_bits_per_byte", training: "loss", logarithmic: {},
  sort: null, sample: null,
};

const say = (key, values = {}) => words[state.language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
const colour = (i) => COLOURS[i % COLOURS.length];

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

const NOTHING = "\u2013";

function count(number) {
  if (number === null || number === undefined) return NOTHING;
  for (const [unit, size] of [["B", 1e9], ["M", 1e6], ["k", 1e3]])
    if (Math.abs(number) >= size) return `${+(number / size).toPrecision(3)}${unit}`;
  return `${+number.toPrecision(4)}`;
}

function figure(number) {
  if (number === null || number === undefined) return NOTHING;
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return number.toExponential(2);
  return number.toPrecision(size >= 1e4 ? 6 : 5);
}

const FORMS = {
  tokens: count, parameters: count, tokens_per_second: count, starts: String,
  flops: (n) => (n === null ? NOTHING : n.toExponential(2)),
  hours: (n) => (n === null ? NOTHING : `${+n.toPrecision(3)}`),
  eval_accuracy: (n) => (n === null ? NOTHING : `${(100 * n).toFixed(1)} %`),
};
const shown = (key, value) => (FORMS[key] || figure)(value);

function runName(i) {
  const dot = el("span", { class: "dot" });
  dot.style.background = colour(i);
  return el("span", { class: "run" }, dot, runs[i].name);
}

function progress(run) {
  const key = `status_${run.status}`, status = key in words.en ? say(key) : run.status;
  return run.status === "finished" ? status : say("at_step", { status, step: run.step, steps: run.steps });
}

// ---- results ----

const COLUMNS = ["eval_bits_per_byte", "eval_loss", "eval_perplexity", "eval_accuracy", "eval_nats_per_character",
  "parameters", "tokens", "flops", "hours", "starts"];
const ranks = (key) => data.one_tokenizer || !PER_TOKEN.includes(key);

function cell(run, key) {
  if (key === "starts") return run.segments.length;
  return key.startsWith("eval_") ? run.metrics[key] : run[key];
}

function ranked() {
  const order = data.rankings.flatMap((ranking) => ranking.candidates.flatMap((c) => c.runs));
  const rest = runs.map((_, i) => i).filter((i) => !order.includes(i));
  return [...order, ...rest];
}

function sorted() {
  if (!state.sort) return ranked();
  const { key, direction } = state.sort, last = direction * Infinity;
  return ranked().sort((a, b) => direction * ((cell(runs[a], key) ?? last) - (cell(runs[b], key) ?? last)));
}

function results() {
  const refusal = el("p", { class: "faint", role: "status" });
  const press = (key) => () => {
    if (!ranks(key)) { refusal.textContent = say("tokenizers_differ"); return; }
    const again = state.sort && state.sort.key === key && state.sort.direction === 1;
    state.sort = { key, direction: again ? -1 : 1 };
    box.replaceWith(results());
  };
  const head = (key) => {
    const here = state.sort && state.sort.key === key;
    const order = here ? (state.sort.direction === 1 ? "ascending" : "descending") : null;
    return el("th", { scope: "col", "aria-sort": order }, el("button", { onclick: press(key) }, say(key)));
  };
  const row = (i) => el("tr", {}, el("td", { title: runs[i].purpose }, runName(i)), el("td", {}, progress(runs[i])),
    COLUMNS.map((key) => el("td", {}, `${shown(key, cell(runs[i], key))}`)));
  const table = el("table", { class: "results" },
    el("thead", {}, el("tr", {}, el("th", {}, say("run")), el("th", {}, say("state")), COLUMNS.map(head))),
    el("tbody", {}, sorted().map(row)));
  const box = el("div", {}, el("div", { class: "wide" }, table), refusal);
  return box;
}

function ranking(found) {
  const line = (candidate) => {
    const range = candidate.runs.length > 1 ? ` (${figure(candidate.low)} \u2013 ${figure(candidate.high)})` : "";
    const behind = candidate.verdict === "best" || candidate.verdict === "diverged" ? ""
      : `${say("to_the_best", { difference: figure(candidate.difference) })}; `;
    return el("li", {}, candidate.runs.map(runName), `${figure(candidate.mean)}${range}: `,
      el("span", { class: candidate.verdict }, behind + say(candidate.verdict)));
  };
  const text = { documents: found.documents, megabytes: +(found.bytes / 1e6).toPrecision(3) };
  return [el("p", { class: "faint" }, say("ranking_text", text)),
    el("ol", { class: "ranking" }, found.candidates.map(line))];
}

// ---- curves ----

let charts = [], extent = [0, 1], sharing = false;

function along(run, step, axis) {
  if (axis === "hours") return hoursAt(run, step);
  return step * run.tokens_per_step * (axis === "flops" ? run.flops_per_token : 1);
}

function hoursAt(run, step) {
  const { step: steps, hours } = run.log, after = steps.findIndex((s) => s >= step);
  if (hours[0] === null || hours[0] === undefined) return null;
  if (after < 0) return hours[hours.length - 1];
  const [s0, h0] = after === 0 ? [0, 0] : [steps[after - 1], hours[after - 1]];
  return steps[after] === s0 ? h0 : h0 + ((hours[after] - h0) * (step - s0)) / (steps[after] - s0);
}

function points(run, metric, positive) {
  const xs = [], ys = [];
  if (!run.log[metric]) return [xs, ys];
  run.log.step.forEach((step, i) => {
    const x = state.axis === "hours" ? run.log.hours[i] : along(run, step, state.axis), y = run.log[metric][i];
    if (x !== null && y !== null && !(positive && y <= 0)) { xs.push(x); ys.push(y); }
  });
  return [xs, ys];
}

function share(from, min, max) {
  if (sharing) return;
  sharing = true;
  for (const chart of charts) if (chart !== from) chart.setScale("x", { min, max });
  sharing = false;
}

const seeAll = () => charts.forEach((chart) => chart.setScale("x", { min: extent[0], max: extent[1] }));

// A continued run: its line stands where the start took up the work. Only the flag on it, which tells
// why, takes the mouse: the library's cursor needs the rest.
function marks(chart) {
  chart.over.querySelectorAll(".mark").forEach((mark) => mark.remove());
  const { min, max } = chart.scales.x;
  runs.forEach((run, i) => run.segments.forEach((segment, k) => {
    const x = k === 0 ? null : along(run, segment.from_step, state.axis);
    if (x === null || x < min || x > max || !chart.series[i + 1].show) return;
    const reason = run.segments[k - 1].reason ?? say("unknown_value");
    const text = say("mark", { run: run.name, step: segment.from_step, reason });
    flag(chart, x, i, text, "mark", "");
  }));
  runs.forEach((run, i) => run.alarms.forEach((alarm) => {
    const x = along(run, alarm.step, state.axis);
    if (x === null || x < min || x > max || !chart.series[i + 1].show) return;
    flag(chart, x, i, say("alarm", { run: run.name, ...alarm }), "mark alarm", "!");
  }));
}

function flag(chart, x, i, text, kind, sign) {
  const made = el("div", { class: kind }, el("div", { class: "flag", title: text, "aria-label": text }, sign));
  made.style.left = `${chart.valToPos(x, "x")}px`;
  made.style.color = colour(i);
  chart.over.append(made);
}

// Two fingers widen or narrow the stretch between them; the library knows the mouse only.
function pinch(chart) {
  let fingers = null;
  const positions = (event) => [...event.touches].map((t) => t.clientX - chart.over.getBoundingClientRect().left).sort((a, b) => a - b);
  chart.over.addEventListener("touchstart", (event) => {
    if (event.touches.length === 2) fingers = positions(event).map((px) => chart.posToVal(px, "x"));
  }, { passive: true });
  chart.over.addEventListener("touchmove", (event) => {
    if (!fingers || event.touches.length !== 2) return;
    event.preventDefault();
    const [left, right] = positions(event), width = chart.over.clientWidth;
    if (right - left < 10) return;
    const unit = (fingers[1] - fingers[0]) / (right - left), min = fingers[0] - left * unit;
    chart.setScale("x", { min: Math.max(extent[0], min), max: Math.min(extent[1], min + width * unit) });
  }, { passive: false });
  chart.over.addEventListener("touchend", () => { fingers = null; });
}

function chart(host, metric) {
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  const positive = !!state.logarithmic[metric];
  const tables = runs.map((run) => points(run, metric, positive));
  const few = Math.max(...tables.map(([xs]) => xs.length)) < 60;
  const axis = { stroke: ink("--faint"), grid: { stroke: ink("--line"), width: 1 }, ticks: { stroke: ink("--line"), width: 1 } };
  const made = new uPlot({
    width: host.clientWidth, height: Math.min(360, Math.max(240, host.clientWidth / 2.5)),
    scales: { x: { time: false }, y: { distr: positive ? 3 : 1 } },
    axes: [
      { ...axis, label: say(state.axis), values: (_, values) => values.map((v) => shown(state.axis, v)) },
      { ...axis, size: 64, values: (_, values) => values.map((v) => (v === null ? "" : `${+v.toPrecision(4)}`)) },
    ],
    cursor: {
      sync: { key: "runs", scales: ["x", null], setSeries: true, filters: { pub: (type) => !/mouse(down|up)|dblclick/.test(type) } },
      drag: { x: true, y: false }, focus: { prox: 24 }, hover: { skip: [undefined, null] },
      bind: { dblclick: () => () => { seeAll(); return null; } },
    },
    focus: { alpha: 0.35 },
    series: [
      { label: say(state.axis), value: (_, v) => shown(state.axis, v) },
      ...runs.map((run, i) => ({
        label: run.name, stroke: colour(i), width: 2, spanGaps: true, points: { show: few },
        dash: DASHES[Math.floor(i / COLOURS.length) % DASHES.length], value: (_, v) => shown(metric, v),
      })),
    ],
    hooks: {
      draw: [marks],
      setScale: [(u, key) => { if (key === "x") share(u, u.scales.x.min, u.scales.x.max); }],
    },
  }, uPlot.join(tables), host);
  pinch(made);
  return made;
}

function drawCharts() {
  sharing = true;
  charts.forEach((made) => made.destroy());
  charts = [];
  for (const host of document.querySelectorAll(".chart")) charts.push(chart(host, state[host.dataset.kind]));
  const ends = runs.flatMap((run) => run.log.step.map((step, i) => (state.axis === "hours" ? run.log.hours[i] : along(run, step, state.axis))));
  extent = [0, ends.reduce((most, x) => Math.max(most, x ?? 0), 0) || 1];
  sharing = false;
  seeAll();
}

function choice(name, options, chosen, change) {
  const select = el("select", { name, onchange: (event) => { change(event.target.value); drawCharts(); } },
    options.map((key) => el("option", { value: key }, say(key))));
  select.value = chosen;
  return select;
}

const known = (metric) => runs.some((run) => run.log[metric]) || ["eval_bits_per_byte", "loss"].includes(metric);

function panel(kind, metrics) {
  const warning = el("p", { class: "faint", role: "status" });
  const logarithmic = el("input", { type: "checkbox", onchange: (event) => {
    state.logarithmic[state[kind]] = event.target.checked;
    drawCharts();
  } });
  const follow = () => {
    logarithmic.checked = !!state.logarithmic[state[kind]];
    warning.textContent = ranks(state[kind]) ? "" : say("tokenizers_differ");
  };
  follow();
  return el("div", {}, el("h3", {}, say(kind)), el("div", { class: "controls" },
    el("label", {}, say("show"), " ", choice(kind, metrics, state[kind], (key) => { state[kind] = key; follow(); })),
    el("label", {}, logarithmic, " ", say("logarithmic"))), warning, el("div", { class: "chart", "data-kind": kind }));
}

function curves() {
  return el("section", { id: "curves" }, el("h2", {}, say("curves")), el("div", { class: "controls" },
    el("label", {}, say("over"), " ", choice("axis", AXES, state.axis, (key) => { state.axis = key; })),
    el("button", { onclick: seeAll }, say("see_all"))),
    el("p", { class: "faint" }, say("curves_hint"), " ", runs.some((run) => run.segments.length > 1) ? say("marks_hint") : "",
      " ", runs.some((run) => run.alarms.length) ? say("alarms_hint") : ""),
    panel("validation", VALIDATION.filter(known)), panel("training", TRAINING.filter(known)));
}

// ---- starts, differences, samples ----

const moment = (time) => (time ? `${time}`.replace("T", " ").replace("+00:00", " UTC") : NOTHING);

function segments() {
  const row = (run, i) => run.segments.map((s, k) => el("tr", {}, el("td", {}, runName(i)), el("td", {}, `${k + 1}`),
    el("td", {}, `${s.from_step}`), el("td", {}, `${s.to_step ?? NOTHING}`), el("td", {}, `${s.repeated_steps ?? NOTHING}`),
    el("td", {}, moment(s.started)), el("td", {}, moment(s.ended)), el("td", {}, `${s.reason ?? say("running")}`)));
  const heads = ["run", "segment", "from_step", "to_step", "repeated", "began", "ended", "reason"];
  return el("section", { id: "segments" }, el("h2", {}, say("segments")), el("div", { class: "wide" },
    el("table", { class: "texts" }, el("thead", {}, el("tr", {}, heads.map((key) => el("th", {}, say(key))))),
      el("tbody", {}, runs.map(row)))));
}

function differences() {
  const value = (one) => el("div", { class: "value" }, el("code", {}, one.value), " ", one.runs.map(runName),
    one.why.map((why) => el("div", { class: "faint" }, why)));
  const row = (one) => el("tr", {}, el("td", {}, one.key), el("td", {}, one.values.map(value)));
  const section = ([name, rows]) => [el("h3", {}, say(`section_${name}`)), rows.length
    ? el("table", { class: "differences" }, el("tbody", {}, rows.map(row)))
    : el("p", { class: "faint" }, say("nothing_differs"))];
  return el("section", { id: "differences" }, el("h2", {}, say("differences")), Object.entries(data.differences).flatMap(section));
}

function samples() {
  const places = [...new Set(runs.flatMap((run) => run.samples.map((row) => row.step * run.tokens_per_step)))].sort((a, b) => a - b);
  if (!places.length) return el("section", { id: "samples" }, el("h2", {}, say("samples")), el("p", {}, say("no_samples")));
  state.sample = Math.min(state.sample ?? places.length - 1, places.length - 1);
  const label = el("output", {}), grid = el("div", { class: "samples" });
  const column = (run, i) => {
    const past = run.samples.filter((row) => row.step * run.tokens_per_step <= places[state.sample]);
    const step = past.reduce((most, row) => Math.max(most, row.step), -1);
    const about = step < 0 ? say("no_sample_yet") : say("sample_of", { step, tokens: count(step * run.tokens_per_step) });
    return el("div", {}, runName(i), el("div", { class: "faint" }, about),
      past.filter((row) => row.step === step).map((row) => el("blockquote", {}, el("b", {}, row.prompt), row.text)));
  };
  const fill = () => {
    label.textContent = say("samples_at", { tokens: count(places[state.sample]) });
    grid.replaceChildren(...runs.map(column));
  };
  const slider = el("input", { type: "range", min: 0, max: places.length - 1, "aria-label": say("samples"),
    oninput: (event) => { state.sample = +event.target.value; fill(); } });
  slider.value = state.sample;
  fill();
  return el("section", { id: "samples" }, el("h2", {}, say("samples")),
    el("div", { class: "controls" }, slider, label), grid);
}

// ---- the page ----

function show() {
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  document.title = `${say("title")}: ${runs.map((run) => run.name).join(", ")}`;
  const turn = () => { state.language = state.language === "zh" ? "en" : "zh"; show(); };
  const notes = data.notes.map((note) => el("li", {}, say(note.key, note)));
  document.querySelector("main").replaceChildren(
    el("header", {}, el("h1", {}, say("title")), el("button", { id: "language", onclick: turn }, say("language"))),
    el("section", { id: "results" }, el("h2", {}, say("results")), el("p", { class: "faint" }, say("results_hint")), results()),
    el("section", { id: "ranking" }, el("h2", {}, say("ranking")), data.rankings.flatMap(ranking),
      notes.length ? [el("h3", {}, say("notes")), el("ul", { class: "notes" }, notes)] : []),
    curves(), samples(), differences(), segments(),
    el("footer", { class: "faint" }, el("p", {}, say("about")), el("p", {}, say("chart_library", { version: data.uplot }))));
  drawCharts();
}

show();
addEventListener("resize", () => charts.forEach((made) => made.setSize({ width: made.root.parentNode.clientWidth, height: made.height })));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
})();
