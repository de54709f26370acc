// The console without this file works; with it, it can be used by the keyboard, and pages say whether they are live.
(() => {
  "use strict";
  const home = document.body.dataset.home;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const help = document.getElementById("help");

  // Lists and timelines: j and k go through their items.
  const step = (by) => {
    const items = all("[data-item]").filter((item) => item.offsetParent !== null);
    if (!items.length) return;
    const at = items.findIndex((item) => item === document.activeElement || item.contains(document.activeElement));
    const next = items[at < 0 ? (by > 0 ? 0 : items.length - 1) : Math.min(items.length - 1, Math.max(0, at + by))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  };
  const focus = (selector) => document.querySelector(selector)?.focus();
  const select = () => {
    const box = document.activeElement.closest("[data-row]")?.querySelector("input[type=checkbox]");
    if (box) box.click();
  };
  const keys = {
    j: () => step(1),
    k: () => step(-1),
    x: select,
    n: () => document.querySelector("[data-start]")?.click() ?? location.assign(`${home}/start`),
    m: () => focus("[data-message]"),
    f: () => (document.activeElement.closest("[data-item]")?.querySelector("a[href*='/fork?']") ?? document.querySelector("[data-fork]"))?.click(),
    e: () => document.querySelector("[data-earlier]")?.click(),
    "/": () => focus(".filters select, .filters input"),
    "?": () => help.showModal(),
  };
  let going = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (Date.now() - going < 1500) {
      going = 0;
      const link = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    if (event.key === "g") { going = Date.now(); return; }
    const act = keys[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  for (const button of all("[data-help]")) {
    button.hidden = false;
    button.addEventListener("click", () => help.showModal());
  }

  // What was changed in a call's arguments is shown below each of them.
  document.addEventListener("input", (event) => {
    const field = event.target.closest("[data-was]");
    const change = field?.closest("label")?.nextElementSibling;
    if (!change?.matches("[data-change]")) return;
    const now = field.type === "checkbox" ? String(field.checked) : field.value;
    change.hidden = now === field.dataset.was;
    change.querySelector("del").textContent = field.dataset.was;
    change.querySelector("ins").textContent = now;
  });

  // A list that nobody looks at need not ask for news.
  document.addEventListener("htmx:before:request", (event) => {
    if (document.hidden && event.target.matches("[data-poll]")) event.preventDefault();
  });
  // An answer that says what went wrong is shown like any other; one without a place is not.
  document.addEventListener("htmx:after:request", (event) => {
    const form = event.target.closest("form[data-reset]");
    if (form && event.detail.ctx?.response?.raw?.ok) form.reset();
  });

  // Whether the page of a run is live.
  const say = (text, lost) => {
    const live = document.querySelector("[data-live]");
    if (!live) return;
    live.hidden = !text;
    live.textContent = text;
    live.classList.toggle("lost", lost);
  };
  document.addEventListener("htmx:sse:after:connection", () => say("Live", false));
  document.addEventListener("htmx:sse:error", () => say("The connection is lost; trying again …", true));
  document.addEventListener("htmx:sse:close", () => say("", false));
})();
