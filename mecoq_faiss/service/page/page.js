// The search page: pictures in, the service's answers out. Everything shown of others is set as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const SLOW = 1500; // ms after which it is said that it takes long
const state = { service: null, asked: null, turn: 0, controller: null, urls: [] };

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(navigator.onLine ? "The service does not answer. Is it running?" : "You are offline.");
  }
  if (answer.ok) return answer;
  let said = `${answer.status} ${answer.statusText}`;
  try { said = (await answer.json()).error || said; } catch { /* no JSON: the status says enough */ }
  if (answer.status === 401) {
    showKey();
    said = "This service asks for a key: enter it above.";
  }
  if (answer.status === 503 || answer.status === 429) said += ` (again in ${answer.headers.get("Retry-After") || 1} s)`;
  throw new Error(said);
}

function showKey() {
  $("key-label").hidden = false;
  $("key").focus();
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function connect() {
  try {
    state.service = await (await call("service")).json();
  } catch (error) {
    $("about").textContent = "Not connected.";
    problem(error.message);
    return false;
  }
  const { bundles, needs_key: needsKey } = state.service;
  const first = bundles[0];
  $("about").textContent = bundles
    .map((b) => `${b.name}: ${b.items.toLocaleString("en")} items, ${b.bytes} bytes each`).join(" · ");
  $("columns").textContent = `Columns: ${first.columns.join(", ")}. For example: id < 100`;
  $("beside-label").hidden = bundles.length < 2;
  $("key-label").hidden = !needsKey;
  $("k").max = Math.min(state.service.most_hits, first.items);
  const takes = first.takes === "images";
  for (const id of ["choose", "camera"]) $(id).disabled = !takes;
  if (!takes) {
    $("hint").textContent = "This collection is of features: search it from one of its items.";
  }
  problem("");
  return true;
}

function form(files, bundle) {
  const body = new FormData();
  for (const file of files) body.append("images", file, file.name || "pasted.png");
  body.append("k", $("k").value);
  body.append("explain", "true");
  if ($("where").value.trim()) body.append("where", $("where").value.trim());
  body.append("bundle", bundle);
  return body;
}

async function search(asked, bundle, signal) {
  if (asked.files) return (await call("search", { method: "POST", body: form(asked.files, bundle), signal })).json();
  const query = new URLSearchParams({ k: $("k").value, explain: "true", bundle });
  if ($("where").value.trim()) query.set("where", $("where").value.trim());
  return (await call(`items/${asked.id}/similar?${query}`, { signal })).json();
}

async function ask(asked) {
  if (!state.service && !(await connect())) return;
  if (!$("k").checkValidity() || !$("k").value) {
    problem(`Results must be a number from 1 to ${$("k").max}.`);
    $("k").focus();
    return;
  }
  const turn = ++state.turn;
  state.asked = asked;
  if (state.controller) state.controller.abort();
  state.controller = new AbortController();
  problem("");
  $("status").textContent = "Searching…";
  document.body.classList.add("busy");
  const slow = setTimeout(() => { $("status").textContent = "Still searching: large pictures take a while…"; }, SLOW);
  showQueries(asked);
  const all = state.service.bundles.map((b) => b.name);
  const names = asked.bundle ? [asked.bundle] : all.slice(0, $("beside").checked ? 2 : 1);
  try {
    const answers = await Promise.all(names.map((name) => search(asked, name, state.controller.signal)));
    if (turn === state.turn) show(answers, asked);
  } catch (error) {
    if (turn === state.turn && error.name !== "AbortError") {
      $("status").textContent = "";
      $("results").replaceChildren();
      problem(error.message);
    }
  } finally {
    clearTimeout(slow);
    if (turn === state.turn) document.body.classList.remove("busy");
  }
}

function showQueries(asked) {
  for (const url of state.urls.splice(0)) URL.revokeObjectURL(url);
  const pictures = asked.files
    ? asked.files.map((file) => {
        const url = URL.createObjectURL(file);
        state.urls.push(url);
        return element("img", { src: url, alt: `Query: ${file.name || "pasted picture"}` });
      })
    : [picture({ id: asked.id, path: asked.path, picture: asked.picture }, `Query: ${asked.path}`)];
  $("queries").replaceChildren(...pictures);
  $("queries").hidden = !pictures.length;
}

function picture(hit, alt) {
  const image = element("img", { alt, loading: "lazy" });
  if (!hit.picture) {
    image.hidden = true;
    return image;
  }
  if (!$("key").value.trim()) {
    image.src = hit.picture;
  } else { // a picture's address alone carries no key
    call(hit.picture).then((answer) => answer.blob()).then((blob) => {
      image.src = URL.createObjectURL(blob);
      image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    }).catch(() => image.dispatchEvent(new Event("error")));
  }
  return image;
}

function show(answers, asked) {
  const parts = answers[0].results.map((result, number) => {
    const sides = element("div", { className: answers.length > 1 ? "sides two" : "sides" });
    answers.forEach((answer) => sides.append(side(answer, answer.results[number], answers.length > 1)));
    const head = asked.files && asked.files.length > 1 ? [element("h2", { textContent: result.query })] : [];
    return element("div", {}, ...head, sides);
  });
  $("results").replaceChildren(...parts);
  const found = answers[0].results.reduce((sum, result) => sum + result.hits.length, 0);
  $("status").textContent = found === 1 ? "1 result." : `${found} results.`;
}

function side(answer, result, named) {
  const list = element("ol", { className: "grid" });
  list.setAttribute("aria-label", named ? `${answer.bundle}: ${result.query}` : result.query);
  list.append(...result.hits.map((hit) => card(hit, answer.bundle)));
  const none = element("p", { className: "empty", textContent: "Nothing found. Is the filter too narrow?" });
  const head = named ? [element("h2", { textContent: answer.bundle })] : [];
  return element("div", { className: "side" }, ...head, result.hits.length ? list : none);
}

function card(hit, bundle) {
  const caption = hit.label ? `${hit.label} · ${hit.path}` : hit.path;
  const open = element("button", { className: "open", type: "button" });
  open.setAttribute("aria-label", `Rank ${hit.rank}: ${caption}. Search by it`);
  const image = picture(hit, "");
  const missing = () => {
    image.hidden = true;
    open.append(element("span", { className: "none", textContent: hit.path }));
  };
  image.addEventListener("error", missing, { once: true });
  open.append(image);
  if (!hit.picture) missing();
  open.addEventListener("click", () => {
    ask({ id: hit.id, path: hit.path, picture: hit.picture, bundle });
  });
  const why = element("button", { className: "ask", type: "button", textContent: "Why?" });
  why.setAttribute("aria-label", `Why is ${caption} here?`);
  why.addEventListener("click", () => explain(hit));
  const score = `${hit.rank}. score ${hit.score.toFixed(3)}`;
  return element("li", { className: "hit" }, open, element("div", { className: "text" },
    element("span", { className: "name", textContent: caption, title: caption }),
    element("span", { className: "score", textContent: score }), why));
}

function explain(hit) {
  const rows = (hit.codes || []).map((code, m) => {
    const part = hit.segments ? hit.segments[m] : 0;
    const meter = element("meter", { min: -1, max: 1, value: part });
    meter.setAttribute("aria-label", `segment ${m + 1}: ${part.toFixed(3)}`);
    return element("tr", {}, element("td", { textContent: String(m + 1) }), element("td", { textContent: String(code) }),
      element("td", { textContent: part.toFixed(3) }), element("td", {}, meter));
  });
  const head = element("tr", {}, ...["Segment", "Codeword", "Adds", ""].map((t) => element("th", { textContent: t, scope: "col" })));
  const facts = Object.entries(hit.metadata || {}).map(([name, value]) => `${name}: ${value}`);
  const relevance = hit.relevance === null ? "" : `, relevance ${hit.relevance.toFixed(3)}`;
  $("why-body").replaceChildren(
    element("p", { textContent: `${hit.path}: score ${hit.score.toFixed(4)}${relevance}, the sum of what its codes add.` }),
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)),
    ...(facts.length ? [element("p", { className: "small", textContent: facts.join(" · ") })] : []));
  $("why").showModal();
}

function take(list) {
  const files = [...list].filter((file) => file.type.startsWith("image/"));
  const most = state.service ? state.service.most_queries : 64;
  if (!files.length) problem("That is no picture.");
  else if (files.length > most) problem(`${files.length} pictures are too many: take at most ${most}.`);
  else ask({ files });
}

$("choose").addEventListener("click", () => $("files").click());
$("camera").addEventListener("click", () => $("shot").click());
for (const id of ["files", "shot"]) {
  $(id).addEventListener("change", (event) => { if (event.target.files.length) take(event.target.files); event.target.value = ""; });
}
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files); });
document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files); });
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.asked) ask(state.asked);
  else if (!state.service || state.service.needs_key) connect();
  else problem("Choose a picture first.");
});
$("beside").addEventListener("change", () => { if (state.asked) ask(state.asked); });
window.addEventListener("offline", () => problem("You are offline."));
window.addEventListener("online", () => connect());
connect();
