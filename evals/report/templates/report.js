"use strict";
(() => {
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);

  // Theme: what the system says, until the reader chooses. A page opened from a file may have no storage.
  const remember = (value) => { try { localStorage.setItem("causalneg-theme", value); } catch { /* no storage */ } };
  const recall = () => { try { return localStorage.getItem("causalneg-theme"); } catch { return null; } };
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { $("theme").textContent = dark() ? "Light" : "Dark"; };
  if (["light", "dark"].includes(recall())) root.dataset.theme = recall();
  $("theme").hidden = false;
  $("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    remember(root.dataset.theme);
    label();
  });
  label();

  // On a narrow screen a row is shown as a card, in which every cell needs its column's name.
  for (const table of document.querySelectorAll(".scroll > table")) {
    const names = [...table.querySelectorAll("thead th")].map((cell) => [...cell.childNodes].map((part) => part.textContent).join(" ").trim());
    if (!names.length) continue;
    for (const cell of table.querySelectorAll("tbody td")) cell.dataset.label = names[cell.cellIndex] || "";
    table.classList.add("cards");
  }

  const list = $("list");
  if (!list) return;
  const data = JSON.parse($("browser-data").textContent);
  const PAGE = 20;

  // Everything goes into the page as text nodes: no passage is ever read as markup.
  const el = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const svg = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const words = (name) => name.replaceAll("_", " ");
  const fates = Object.fromEntries([...$("verdict").options].map((option) => [option.value, option.text]));
  const latest = (scores) => Object.values(scores).at(-1) ?? null;
  const items = data.queries.flatMap((query) => query.negatives.map((negative) => ({
    query, negative,
    score: latest(negative.scores),
    above: latest(query.scores) !== null && latest(negative.scores) !== null
      ? latest(negative.scores) - latest(query.scores) : null,
    searched: [query.query, data.passages[negative.p], negative.requirement || "", negative.reason || ""]
      .join("\n").toLowerCase(),
  })));
  const every = items.flatMap(({ query, negative }) => [...Object.values(query.scores), ...Object.values(negative.scores)]);
  const low = every.reduce((a, b) => Math.min(a, b), Infinity), high = every.reduce((a, b) => Math.max(a, b), -Infinity);
  for (const control of document.querySelectorAll("[data-scores]")) control.disabled = !every.length;
  $("unscored").hidden = every.length > 0;

  // Ranges count characters, strings of the browser count 16-bit units: an emoji is one and two.
  const marked = (text, ranges) => {
    const letters = Array.from(text);
    const out = el("p", { class: "text", dir: "auto" });
    let at = 0;
    for (const [start, end] of ranges || []) {
      out.append(letters.slice(at, start).join(""), el("mark", {}, letters.slice(start, end).join("")));
      at = end;
    }
    out.append(letters.slice(at).join(""));
    return out;
  };

  const position = (value) => 2 + 96 * (value - low) / ((high - low) || 1);
  const scale = (query, negative) => {
    const box = el("div", { class: "scale" });
    for (const [when, value] of Object.entries(negative.scores)) {
      const positive = query.scores[when];
      const known = positive !== undefined;
      const drawn = svg("svg", { "aria-hidden": "true" },
        svg("line", { x1: "0", x2: "100%", y1: 9, y2: 9, stroke: "var(--line)", "stroke-width": 2 }));
      for (const other of query.negatives) {
        const score = other.scores[when];
        if (other !== negative && score !== undefined) {
          const x = `${position(score)}%`;
          drawn.append(svg("line", { x1: x, x2: x, y1: 5, y2: 13, stroke: `var(--${other.source})`, "stroke-width": 2, opacity: .55 }));
        }
      }
      if (known) {
        const x = `${position(positive)}%`;
        drawn.append(svg("line", { x1: x, x2: x, y1: 0, y2: 18, stroke: "var(--positive)", "stroke-width": 3 }));
      }
      drawn.append(svg("circle", { cx: `${position(value)}%`, cy: 9, r: 6, fill: `var(--${negative.source})`, stroke: "var(--bg)", "stroke-width": 2 }));
      const against = known ? ` (${value >= positive ? "+" : "−"}${Math.abs(value - positive).toFixed(3)} to the positive)` : "";
      box.append(el("span", {}, when), drawn, el("span", {}, value.toFixed(3) + against));
    }
    return box;
  };

  const card = ({ query, negative }, number) => {
    const head = el("header", {}, el("span", { class: `chip ${negative.source}` }, negative.source));
    if (negative.disruption) head.append(el("b", {}, words(negative.disruption)));
    if (negative.fate) head.append(el("span", {}, fates[negative.fate] || words(negative.fate)));
    if (negative.kept !== undefined) {
      head.append(el("span", { class: "soft" }, `${negative.kept >= .5 ? "light edit" : "rewritten"}, ${Math.round(100 * negative.kept)}% of the words kept`));
    }
    const marks = negative.marks || [[], []];
    const right = el("div", { class: "right" }, el("h4", {}, negative.source === "refused" ? "refused" : "negative"), marked(data.passages[negative.p], marks[1]));
    right.style.setProperty("--c2", `var(--${negative.source})`);
    const sides = el("div", { class: negative.kept < .5 ? "sides rewrite" : "sides" },
      el("div", { class: "left" }, el("h4", {}, "positive"), marked(data.passages[query.positive], marks[0])), right);
    const foot = el("div", { class: "foot" });
    if (negative.requirement) foot.append(el("div", {}, el("b", {}, "Violates: "), negative.requirement));
    if (negative.reason) {
      const held = (negative.satisfied || []).filter(Boolean).length;
      const told = negative.answers ? "answers the query" : "does not answer the query";
      foot.append(el("div", {}, el("b", {}, "Verifier: "), `${told}, ${held} of ${(negative.satisfied || []).length} requirements hold. ${negative.reason}`));
    }
    const drawn = scale(query, negative);
    if (drawn.childElementCount) foot.append(drawn);
    const made = el("article", { class: "card", tabindex: "-1", "aria-label": `negative ${number}` }, head, sides);
    if (foot.childElementCount) made.append(foot);
    return made;
  };

  let matching = [];
  let shown = 0;
  const showMore = (focus) => {
    const start = shown;
    const piece = document.createDocumentFragment();
    for (const item of matching.slice(shown, shown + PAGE)) {
      if (shown === 0 || matching[shown - 1].query !== item.query) {
        piece.append(el("h3", { class: "query", dir: "auto" }, item.query.query, el("small", {}, item.query.id)));
        if (item.query.requirements.length) {
          piece.append(el("ol", { class: "needs" }, ...item.query.requirements.map((text) => el("li", {}, text))));
        }
      }
      shown += 1;
      piece.append(card(item, shown));
    }
    list.append(piece);
    $("more").hidden = shown >= matching.length;
    $("more").textContent = `Show ${Math.min(PAGE, matching.length - shown)} more of ${matching.length - shown}`;
    if (focus) list.querySelectorAll(".card")[start]?.focus();
  };

  const number = (id) => { const value = parseFloat($(id).value); return Number.isFinite(value) ? value : null; };
  const mark = () => list.classList.toggle("plain", !$("marks").checked);
  const apply = () => {
    const text = $("search").value.trim().toLowerCase();
    const source = $("source").value, disruption = $("disruption").value, verdict = $("verdict").value;
    const place = $("place").value, from = number("from"), to = number("to");
    matching = items.filter(({ negative, score, above, searched }) =>
      (!source || negative.source === source)
      && (!disruption || negative.disruption === disruption)
      && (!verdict || (negative.fate || "none") === verdict)
      && (!place || (above !== null && (place === "above" ? above >= 0 : place === "near" ? above < 0 && above >= -.1 : above < -.1)))
      && (from === null || (score !== null && score >= from))
      && (to === null || (score !== null && score <= to))
      && (!text || searched.includes(text)));
    if ($("order").value === "hardest") {
      // Array.prototype.sort is stable: equal scores stay in the order of the file.
      matching.sort((a, b) => (b.above ?? b.score ?? -9) - (a.above ?? a.score ?? -9));
    }
    list.replaceChildren();
    mark();
    list.removeAttribute("aria-busy");
    shown = 0;
    $("matches").textContent = `${matching.length.toLocaleString("en")} of ${items.length.toLocaleString("en")} negatives`;
    if (matching.length) showMore(false); else { list.append(el("p", { class: "absent" }, "Nothing matches these filters.")); $("more").hidden = true; }
  };

  let waiting = 0;
  const soon = () => {
    list.setAttribute("aria-busy", "true");
    clearTimeout(waiting);
    waiting = setTimeout(apply, 120);
  };
  // Not every browser sends "input" for a menu, nor "change" for each letter.
  for (const event of ["input", "change"]) $("filters").addEventListener(event, soon);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => { setTimeout(apply, 0); });
  $("marks").addEventListener("input", mark);
  $("more").addEventListener("click", () => showMore(true));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    if (event.key === "/") { event.preventDefault(); $("search").focus(); }
    if (event.key !== "j" && event.key !== "k") return;
    const cards = [...list.querySelectorAll(".card")];
    const at = cards.indexOf(document.activeElement);
    const next = cards[at < 0 ? 0 : at + (event.key === "j" ? 1 : -1)];
    if (next) next.focus(); else if (event.key === "j" && !$("more").hidden) showMore(true);
  });
  apply();
})();
