// What the pages share: making elements, asking the gateway, and the key where it asks for one.

export const $ = (id) => document.getElementById(id);
export const make = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
};

export let key = "";
try { key = sessionStorage.getItem("key") ?? ""; } catch { /* asked for again after a reload */ }
let enter = () => {};
let locked = () => {};

// `enter` is what a page does at first, and again with each key; `locked` what it does when it needs one.
export function unlocked(begin, wait) {
  [enter, locked] = [begin, wait];
  enter();
}

export async function call(path, { headers, ...options } = {}) {
  const response = await fetch(path, { ...options, headers: { ...headers, ...(key && { Authorization: `Bearer ${key}` }) } });
  if (response.status === 401) ask(key ? "This key does not hold here, or no longer." : "");
  return response;
}

export const send = (path, body, keepalive = false) => call(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), keepalive,
});

export function ask(refused) {
  locked();
  if ($("ask").open) return;
  $("ask-refused").textContent = refused;
  $("ask").showModal();
}

$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  try { sessionStorage.setItem("key", key); } catch { /* kept until the next reload */ }
  $("ask").close();
  enter();
});
$("ask").addEventListener("cancel", (event) => event.preventDefault()); // there is nothing behind it without a key
for (const anchor of document.querySelectorAll("footer nav a")) {
  anchor.addEventListener("click", async (event) => {
    if (!key) return; // an ordinary link
    event.preventDefault();
    const response = await call(anchor.pathname);
    if (response.ok) location.assign(URL.createObjectURL(await response.blob()));
  });
}

export function toast(title, detail) {
  const node = make("div", "toast");
  node.append(make("b", "", title), document.createTextNode(detail));
  $("toasts").append(node);
  setTimeout(() => node.remove(), 9000);
}
