// Keeps the page fresh without reloading it, and asks for a refresh of a target.
"use strict";

const POLL_SECONDS = 4;
const WAIT_SECONDS = 10;
const MESSAGE_SECONDS = 8;
const TOKEN = "refresher-api-token";

// --- the page follows what stands ---------------------------------------------------------------

let timer = null;
let polling = false;
let lostAt = null;

/** Fetch this page anew and change what differs; then again, unless nobody looks. */
async function poll() {
  if (polling) return;
  polling = true;
  clearTimeout(timer);
  const started = performance.now();
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok && answer.status !== 404) throw new Error(String(answer.status));
    show(await answer.text());
    found();
  } catch {
    lost();
  }
  polling = false;
  schedule(performance.now() - started);
}

/** The next look; a page that takes long is asked for more seldom. */
function schedule(took = 0) {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(poll, Math.max(POLL_SECONDS * 1000, 10 * took));
}

function show(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const focused = document.activeElement;
  document.title = fresh.title;
  for (const part of ["header", "main"]) {
    morph(document.querySelector(part), fresh.querySelector(part));
  }
  // A node that moved to another place lost it.
  if (focused !== document.activeElement) focused.focus({ preventScroll: true });
}

/** Make `old` like `fresh` and keep every node that stays, so that focus and scroll stay. */
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  const named = new Map([...old.children].filter((child) => child.id).map((c) => [c.id, c]));
  let place = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const same = next.id ? named.get(next.id) : alike(place, next) ? place : null;
    if (!same) {
      old.insertBefore(document.importNode(next, true), place);
    } else {
      if (same === place) place = place.nextSibling;
      else old.insertBefore(same, place);
      morph(same, next);
    }
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

function alike(old, fresh) {
  return old !== null && old.nodeName === fresh.nodeName && !old.id;
}

function lost() {
  if (lostAt) return;
  lostAt = say("bad", `The daemon does not answer since ${clock()}. What is shown is from before.`);
  document.body.classList.add("outdated");
}

function found() {
  if (!lostAt) return;
  lostAt.remove();
  lostAt = null;
  document.body.classList.remove("outdated");
}

function clock() {
  return new Date().toLocaleTimeString();
}

// --- a person asks ------------------------------------------------------------------------------

const pending = new Set();

async function refresh(name) {
  if (pending.has(name)) return;
  pending.add(name);
  markBusy(name);
  try {
    await ask(name);
  } catch {
    lost();
  }
  pending.delete(name);
  await poll();
}

async function ask(name) {
  const answer = await post(`/api/v1/targets/${encodeURIComponent(name)}/refresh?wait=${WAIT_SECONDS}`);
  if (answer === null) return;
  const body = await answer.json();
  const [tone, words] = told(answer, body);
  passing(say(tone, `${name}: ${words}`));
}

function told(answer, body) {
  if (!answer.ok) return ["bad", body.detail];
  if (!body.outcome) return ["unknown", "asked for; it has not ended yet"];
  if (body.outcome === "failed") return ["bad", `failed: ${body.failure.message}`];
  return ["fine", body.outcome];
}

/** The answer to a POST, with a token where one is asked for; null where nobody gives one. */
async function post(path) {
  let wrong = false;
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { "Content-Type": "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    const answer = await fetch(path, { method: "POST", headers });
    if (answer.status !== 401) return answer;
    wrong = wrong || Boolean(token);
    sessionStorage.removeItem(TOKEN);
    const given = await askForToken(wrong);
    if (given === null) return null;
    sessionStorage.setItem(TOKEN, given);
  }
}

function askForToken(wrong) {
  const dialog = document.querySelector("#token");
  const input = document.querySelector("#token-value");
  document.querySelector("#token-wrong").hidden = !wrong;
  input.setAttribute("aria-invalid", String(wrong));
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const given = input.value.trim();
        input.value = "";
        resolve(dialog.returnValue === "ok" && given ? given : null);
      },
      { once: true },
    );
  });
}

function markBusy(name) {
  const button = document.querySelector(`#refresh-${CSS.escape(name)}`);
  if (!button) return;
  button.setAttribute("aria-disabled", "true");
  button.firstChild.nodeValue = "In progress";
}

// --- messages -----------------------------------------------------------------------------------

function say(tone, words) {
  const message = document.createElement("p");
  message.className = tone;
  message.textContent = words;
  document.querySelector("#messages").append(message);
  return message;
}

function passing(message) {
  setTimeout(() => message.remove(), MESSAGE_SECONDS * 1000);
}

// --- events -------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-refresh]");
  if (button && button.getAttribute("aria-disabled") !== "true") refresh(button.dataset.refresh);
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else poll();
});

schedule();
