// The setup page: the doctor's checks as they finish, the number and its webhook, and trial settings.
import { Refused, base, h, request } from "./common.js";

const $ = (id) => document.getElementById(id);
const MARKS = { ok: ["✓", "passed"], failed: ["✗", "failed"], skipped: ["–", "skipped"], note: ["!", "note"] };

const EXAMPLES = [
  ["weather", "Weather and memory", "Tools whose state is seen beside the talk."],
  ["supervisor", "Chat-supervisor", "The voice answers at once, and a text model thinks."],
  ["solar_system", "Solar system", "Tools move a picture on a page of the app's own."],
];

function problem(place, error) {
  if (!(error instanceof Refused)) console.warn(error);
  place.textContent = error instanceof Refused ? error.message : "The server does not answer: is it running?";
  place.hidden = false;
}

/** A text to copy, and the button that copies it. */
function copyable(text, label) {
  const button = h("button", { type: "button", "aria-label": `Copy ${label}` }, "Copy");
  button.addEventListener("click", () => copy(text, button));
  return h("div.copyable", {}, h("pre", {}, text), button);
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it, and copy";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

// --- the checks ---

/** The parts of a text; text between backticks is code. */
function withCode(text) {
  return text.split("`").map((part, n) => (n % 2 ? h("code", {}, part) : part));
}

function line(check) {
  const [mark, words] = MARKS[check.status] ?? ["?", check.status];
  return h("li", { "data-status": check.status },
    h("span.mark", {}, h("span", { "aria-hidden": "true" }, mark), h("span.only-read", {}, words)),
    h("span.name", {}, check.name),
    h("span.text", {}, ...withCode(check.text)),
    check.copy ? copyable(check.copy, `what repairs ${check.name}`) : null);
}

function summary({ running, checks }) {
  const failed = checks.filter((each) => each.status === "failed").length;
  const badge = $("checks-summary");
  badge.textContent = running ? "checking…" : failed ? `${failed} to repair` : "ready";
  badge.className = `badge ${running ? "" : failed ? "bad" : "good"}`;
}

async function check(again) {
  const list = $("checks");
  $("check-again").disabled = true;
  $("checks-problem").hidden = true;
  list.setAttribute("aria-busy", "true");
  try {
    if (again) await request("/console/setup/checks", { method: "POST" });
    let report = { running: true, checks: [] };
    list.replaceChildren();
    while (report.running) {
      const seen = report.checks.length;
      report = await request(`/console/setup/checks?after=${seen}`);
      if (report.checks.length < list.children.length) list.replaceChildren(); // another page has started them again
      list.append(...report.checks.slice(list.children.length).map(line));
      summary(report);
    }
    if (report.problem) problem($("checks-problem"), new Refused(500, report.problem));
  } catch (error) {
    $("checks-summary").textContent = "not checked";
    problem($("checks-problem"), error);
  }
  list.setAttribute("aria-busy", "false");
  $("check-again").disabled = false;
}

// --- the number ---

let webhook = null;

async function showNumber() {
  try {
    const found = await request("/console/setup/number");
    webhook = found.webhook;
    const facts = [
      ["Number", found.number ?? "–"],
      ["Webhook", webhook === null ? "–" : webhook.voice_url || "none"],
      ["This app", found.voice_url],
      ["Tunnel", found.tunnel ?? "none that is known"],
    ];
    $("number").replaceChildren(...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd.mono", {}, value)]));
    const trouble = found.problem
      ?? (webhook?.taken_by ? `${webhook.taken_by} takes its calls: remove that from the number at Twilio` : null)
      ?? (webhook?.has_voice === false ? "the number cannot take voice calls: buy one that can" : null);
    $("number-problem").hidden = trouble === null;
    $("number-problem").textContent = trouble ?? "";
    const state = $("number-state");
    state.textContent = webhook === null ? "unknown" : webhook.points_here ? "calls come here" : "points elsewhere";
    state.className = `badge ${webhook === null ? "" : webhook.points_here ? "good" : "warn"}`;
    $("point").disabled = webhook === null || webhook.points_here || trouble !== null;
  } catch (error) {
    $("number-state").textContent = "unknown";
    problem($("number-problem"), error);
  }
}

function confirmed() {
  const dialog = $("confirm");
  $("confirm-before").textContent = webhook.voice_url || "none";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function point() {
  if (!await confirmed()) return;
  $("point").disabled = true;
  try {
    const done = await request("/console/setup/webhook", { method: "POST", body: { confirm: true } });
    const said = [done.before ? `Pointed here. Before, it was ${done.before}` : "Pointed here."];
    if (done.status_callback_before) said.push(`its status callback ${done.status_callback_before}`);
    if (done.fallback_kept) said.push(`its fallback ${done.fallback_kept} stays`);
    $("point-said").textContent = said.join("; ");
  } catch (error) {
    $("point-said").textContent = error instanceof Refused ? error.message : "The server does not answer.";
  }
  await showNumber();
}

// --- trial settings ---

const form = $("trial");
const field = (name) => form.elements[name];
let agent = {};

function showDetection() {
  for (const each of form.querySelectorAll("[data-for]")) each.hidden = each.dataset.for !== field("detection").value;
}

/** Fill the form with the trial, on top of the agent's own settings. */
function fill(trial) {
  const turns = trial.turn_detection ?? {};
  field("voice").value = trial.voice ?? "";
  field("voice").placeholder = agent.voice ?? "";
  field("speed").value = trial.speed ?? "";
  field("speed").placeholder = agent.speed ?? "1";
  field("model").value = trial.model ?? "";
  field("model").placeholder = agent.model ?? "";
  field("model").disabled = !agent.model;
  field("detection").value = turns.type ?? "";
  for (const name of ["silence_duration_ms", "threshold", "eagerness"]) field(name).value = turns[name] ?? "";
  field("instructions").value = trial.instructions ?? agent.instructions ?? "";
  $("instructions-hint").textContent = typeof agent.instructions === "string"
    ? "" : "The agent's own come from a function of the call. What you write here replaces them.";
  const off = new Set(trial.tools_off ?? []);
  for (const box of form.querySelectorAll("[name=tool]")) box.checked = !off.has(box.value);
  showDetection();
}

function given() {
  const number = (name) => (field(name).value === "" ? undefined : Number(field(name).value));
  const trial = {
    voice: field("voice").value.trim() || undefined,
    speed: number("speed"),
    model: field("model").value.trim() || undefined,
  };
  const instructions = field("instructions").value;
  if (instructions !== (agent.instructions ?? "")) trial.instructions = instructions;
  const off = [...form.querySelectorAll("[name=tool]:not(:checked)")].map((box) => box.value);
  if (off.length) trial.tools_off = off;
  const type = field("detection").value;
  if (type === "server_vad") {
    trial.turn_detection = { type, silence_duration_ms: number("silence_duration_ms"), threshold: number("threshold") };
  } else if (type) {
    trial.turn_detection = { type, eagerness: field("eagerness").value || undefined };
  }
  return trial;
}

function showTrial({ agent: facts, trial, python }) {
  agent = facts;
  $("voices").replaceChildren(...facts.voices.map((voice) => h("option", { value: voice })));
  const tools = facts.tools ?? [];
  $("tools").hidden = tools.length === 0;
  $("tools").replaceChildren(h("legend", {}, "Tools"), ...tools.map(({ name, description }) => h("label.tool", {},
    h("input", { type: "checkbox", name: "tool", value: name }),
    h("span", {}, h("code", {}, name), description ? h("span.hint", {}, ` ${description}`) : null))));
  fill(trial ?? {});
  $("trial-state").textContent = trial ? "on the next call" : "the agent's own";
  $("trial-state").className = `badge ${trial ? "agent" : ""}`;
  $("trial-drop").disabled = !trial;
  $("python").hidden = !python;
  $("python-text").textContent = python ?? "";
}

async function trial(method, body) {
  $("trial-problem").hidden = true;
  try {
    showTrial(await request("/console/setup/trial", { method, body }));
  } catch (error) {
    problem($("trial-problem"), error);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  trial("PUT", given());
});
field("detection").addEventListener("change", showDetection);
$("trial-drop").addEventListener("click", () => trial("DELETE"));
$("copy-python").addEventListener("click", () => copy($("python-text").textContent, $("copy-python")));
$("check-again").addEventListener("click", () => check(true));
$("point").addEventListener("click", point);
$("to-phone").href = `${base}/console/phone`;
$("examples").append(...EXAMPLES.map(([name, title, words]) => h("li", {},
  h("h3", {}, h("a", { href: `${$("examples").dataset.source}${name}.py`, rel: "noreferrer" }, title)), h("p.hint", {}, words),
  copyable(`phoneagent dev examples/${name}.py`, `the command of ${title}`))));

trial("GET");
showNumber();
check(false);
