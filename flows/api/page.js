"use strict";
// Whatever comes from the store is set as text, never as HTML: a file may have any name.
const at = (id) => document.getElementById(id);

function note(text, bad) {
  at("note").textContent = text;
  at("note").className = bad ? "bad" : "";
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail);
  return answer;
}

function part(kind, text, into) {
  const made = document.createElement(kind);
  made.textContent = text;
  into.append(made);
  return made;
}

function show(hit) {
  const item = document.createElement("li");
  const button = part("button", "", item);
  const image = document.createElement("img");
  image.src = "thumbnails/" + hit.image_id + "?size=256";
  image.alt = hit.label || "";
  image.loading = "lazy";
  button.title = "find more like this\n" + hit.path;
  button.append(image);
  button.addEventListener("click", () => search({ids: [hit.image_id]}, null));
  part("b", hit.label || "(no label)", item);
  const numbers = [["image", hit.image_cosine], ["text", hit.text_cosine], ["standing", hit.standing]]
    .filter(([, value]) => value !== null).map(([name, value]) => name + " " + value.toFixed(3));
  part("small", numbers.join(", "), item);
  part("small", hit.path.split("/").pop(), item);
  at("hits").append(item);
}

async function search(what, file) {
  const query = {...what, k: Number(at("k").value)};
  if (at("label").value) query.filters = {labels: [at("label").value]};
  let body = JSON.stringify(query), headers = {"content-type": "application/json"};
  if (file) {
    headers = {};
    const form = new FormData();
    form.append("query", body);
    form.append("images", file);
    body = form;
  }
  note("searching ...");
  try {
    const found = await ask("search", {method: "POST", headers, body});
    at("hits").replaceChildren();
    found.hits.forEach(show);
    note(found.hits.length + " of " + found.images + " images");
  } catch (error) {
    note(error.message, true);
  }
}

function submit() {
  const what = {};
  if (at("text").value.trim()) what.texts = [at("text").value];
  if (at("without").value.trim()) what.not_texts = [at("without").value];
  return search(what, at("file").files[0]);
}

async function start() {
  at("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  try {
    const health = await ask("health");
    at("about").textContent = health.images + " images in " + health.store;
    const labels = await ask("labels").catch(() => ({labels: []}));
    for (const each of labels.labels) {
      part("option", each.label + " (" + each.images + ")", at("label")).value = each.label;
    }
  } catch (error) {
    note(error.message, true);
  }
  const text = new URLSearchParams(location.search).get("text");
  if (text) {
    at("text").value = text;
    submit();
  }
}

start();
