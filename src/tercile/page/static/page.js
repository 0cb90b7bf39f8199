// What the page does beyond its links and forms: it works without any of this.
"use strict";

const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Light and dark. The choice is kept in a cookie, so that the server answers in it and nothing flashes.
const theme = one(".theme");
if (theme) {
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    one('meta[name="color-scheme"]').content = root.dataset.theme;
    document.cookie = `theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=lax`;
  });
}

// The time zone of a new digest: this machine's own, unless somebody has chosen.
const zone = one("[data-own-zone]");
if (zone && zone.value === "UTC") {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (all("option", zone).some((option) => option.value === own)) zone.value = own;
}

// A part of the page that follows a form: asked for anew when the form changes, the latest answer wins.
let asked = 0;
let waiting = null;
async function follow(address, shown, into, words) {
  const mine = ++asked;
  if (waiting) waiting.abort();
  waiting = new AbortController();
  try {
    const answer = await fetch(address, { signal: waiting.signal, headers: { accept: "text/html" } });
    if (!answer.ok || mine !== asked) return;
    const text = await answer.text();
    if (mine !== asked) return;
    into.innerHTML = text; // written by our own templates, which escape
    one("#said").textContent = one(words, into).textContent; // a screen reader says this much and no more
    history.replaceState(null, "", shown);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

const search = one("form.search");
const results = one("#results");
if (search && results) {
  const field = one('input[type="search"]', search);
  let timer = 0;
  const ask = () => {
    const given = new URLSearchParams([...new FormData(search)].filter(([, value]) => value));
    if (given.get("mode") === "both") given.delete("mode");
    const query = given.toString();
    follow(`/results?${query}`, query ? `/?${query}` : "/", results, ".told p");
  };
  const soon = (pause) => { clearTimeout(timer); timer = setTimeout(ask, pause); };
  search.addEventListener("input", (event) => soon(event.target === field ? 180 : 0));
  search.addEventListener("submit", (event) => { event.preventDefault(); soon(0); });
  all("[data-without-script]", search).forEach((part) => { part.hidden = true; });

  // Arrows walk through what was found, from the search field down and back.
  const links = () => all(".row h3 a", results);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input:not([type=checkbox]):not([type=radio]), select, textarea");
    if ((event.key === "ArrowDown" || event.key === "ArrowUp") && (!typing || event.target === field)) {
      const found = links();
      const at = found.indexOf(document.activeElement);
      const next = at + (event.key === "ArrowDown" ? 1 : -1);
      if (event.target !== field && at < 0) return; // the arrows scroll until a result is chosen
      event.preventDefault();
      if (next < 0) field.focus();
      else if (next < found.length) found[next].focus();
    } else if (event.key === "Escape" && document.activeElement !== field && links().includes(document.activeElement)) {
      field.focus();
    }
  });
  results.addEventListener("focusin", (event) => mark(event.target.closest(".row")));
  results.addEventListener("focusout", () => mark(null));
  const mark = (row) => {
    all(".row.at", results).forEach((other) => other.classList.remove("at"));
    if (row) row.classList.add("at");
  };
}
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea")) return;
  const field = one('input[type="search"]');
  event.preventDefault();
  if (field) field.select();
  else location.assign("/#find"); // no element's name: going to one would take the focus away
});
if (location.hash === "#find" && search) one('input[type="search"]', search).focus();

// The slider shows the stored run under it.
const slider = one(".slider input[type=range]");
if (slider) {
  one(".slider").hidden = false;
  const stops = JSON.parse(slider.dataset.stops);
  const said = one(".slider output");
  slider.addEventListener("input", () => {
    said.textContent = stops[slider.value].word;
    slider.setAttribute("aria-valuetext", stops[slider.value].word);
    all(".stops a").forEach((link, at) => {
      if (at === Number(slider.value)) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
    const loss = stops[slider.value].loss;
    follow(`/try/run?loss=${loss}`, `/try?loss=${loss}`, one("#run"), ".promise");
  });
}

// A live run reports on itself until it has ended.
const live = one("#live");
if (live) {
  const look = async () => {
    const job = one("[data-running]", live);
    if (!job) return;
    try {
      const answer = await fetch("/try/live", { headers: { accept: "text/html" } });
      if (answer.ok) {
        const held = document.activeElement && live.contains(document.activeElement);
        live.innerHTML = await answer.text();
        if (held) { const button = one("button", live); if (button) button.focus(); }
      }
    } catch { /* the next look may succeed */ }
    setTimeout(look, 1000);
  };
  setTimeout(look, 1000);
}
