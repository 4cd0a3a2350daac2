// The page: sends each image to /score and /explain and shows the answers.

const AT_ONCE = 4; // requests of this page under way
const PATIENCE = 20; // times to ask again when the server is busy

const $ = (id) => document.getElementById(id);
const cards = $("cards");
const percent = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 2 });
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const count = new Intl.NumberFormat("en");

let detector = null;
let histogram = null; // a promise of the specification
const shown = new Map(); // card -> what its chart needs
const queue = [];
let working = 0;

class Refused extends Error {}

// --- talking to the server

let asking = null;

function askForToken(wrong) {
  asking ??= new Promise((resolve) => {
    $("wrong").hidden = !wrong;
    $("token").value = "";
    $("ask").showModal();
    $("ask").onclose = () => {
      asking = null;
      resolve(sessionStorage.getItem("token"));
    };
  });
  return asking;
}

$("key").addEventListener("submit", () => sessionStorage.setItem("token", $("token").value.trim()));
$("later").addEventListener("click", () => {
  sessionStorage.removeItem("token");
  $("ask").close();
});

// Of a detector calibrated per group the address names the one of all images, as requests do.
const group = new URLSearchParams(location.search).get("group");

async function call(path, file) {
  if (group !== null && path !== "healthz") path += `?group=${encodeURIComponent(group)}`;
  for (let tries = 0; ; ) {
    const token = sessionStorage.getItem("token");
    const options = { headers: token ? { Authorization: `Bearer ${token}` } : {} };
    if (file) {
      options.method = "POST";
      options.body = new FormData();
      options.body.append("image", file, file.name || "pasted");
    }
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Refused("The server did not answer. Is it still running, and is the image not too large?");
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      // Another request may have asked for it meanwhile.
      if (sessionStorage.getItem("token") !== token) continue;
      sessionStorage.removeItem("token");
      if (await askForToken(Boolean(token))) continue;
      throw new Refused("The server needs its token.");
    }
    if (answer.status === 429 && ++tries < PATIENCE) {
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((go) => setTimeout(go, 1000 * seconds));
      continue;
    }
    const problem = await answer.json().catch(() => ({}));
    const reason = problem.detail ?? `The server failed (status ${answer.status}).`;
    throw new Refused(reason[0].toUpperCase() + reason.slice(1) + (reason.endsWith(".") ? "" : "."));
  }
}

// --- what the detector is

function notice(error) {
  $("notice").textContent = error.message;
  $("notice").hidden = false;
}

function introduceRows() {
  const columns = detector.columns;
  $("detector").textContent = `rows of ${count.format(columns.length)} numbers · method ${detector.method}`;
  const some = columns.slice(0, 8).join(", ") + (columns.length > 8 ? ", …" : "");
  document.title = "approxmass: does this row belong?";
  document.querySelector("h1").textContent = "Does this row belong?";
  $("lead").textContent =
    `This detector takes rows of numbers (${some}), which no page can choose for you: send them to ` +
    `POST /score as {"rows": [[1.5, 2.0]]}; the answer has a p-value for each.`;
  for (const part of [$("drop"), document.querySelector(".notes")]) part.hidden = true;
}

async function introduce() {
  detector = (await (await call("healthz")).json()).detector;
  if (detector.columns.length) return introduceRows();
  const colour = detector.channels === 1 ? "grey" : "colour";
  const size = `${detector.width}×${detector.height}`;
  $("detector").textContent = `${colour} images, ${size} · method ${detector.method}`;
  for (const name of detector.groups) {
    const link = document.createElement("a");
    link.textContent = name;
    link.href = `?group=${encodeURIComponent(name)}`;
    if (name === group) link.setAttribute("aria-current", "true");
    $("groups").append(" ", link);
  }
  $("groups").hidden = !detector.groups.length;
  const takes = detector.resizes
    ? `Images of any size are brought to ${size}.`
    : `It takes ${colour} images of ${size} pixels.`;
  $("lead").textContent =
    `Each image is compared with those of the fit, ${count.format(detector.training_images)} images ` +
    `that this detector has learnt from. ${takes} They stay in memory and are never kept.`;
}

const introduced = introduce().catch(notice);

// --- cards

function add(files) {
  const images = [...files];
  if (!images.length) return;
  $("notice").hidden = true;
  document.body.classList.add("busy");
  $("bar").hidden = false;
  const made = images.map((file) => {
    const card = $("card").content.firstElementChild.cloneNode(true);
    card.classList.add("waiting");
    const name = file.name || "pasted image";
    card.querySelector(".file").textContent = name;
    card.querySelector(".file").title = name;
    card.querySelector(".says").textContent = "Looking…";
    const own = card.querySelector(".own img");
    own.alt = name;
    own.onload = () => own.classList.toggle("small", own.naturalWidth < 148);
    own.onerror = () => own.replaceWith(text("no preview"));
    own.src = URL.createObjectURL(file);
    queue.push([card, file]);
    return card;
  });
  cards.prepend(...made);
  summarize();
  while (working < AT_ONCE && queue.length) work();
}

async function work() {
  working += 1;
  while (queue.length) {
    const [card, file] = queue.shift();
    if (!card.isConnected) continue; // cleared meanwhile
    try {
      await look(card, file);
    } catch (error) {
      if (!(error instanceof Refused)) console.error(error);
      become(card, "failed", "Not scored");
      card.querySelector(".why").textContent = error.message;
      card.querySelector(".numbers").replaceChildren();
    }
    summarize();
  }
  working -= 1;
}

async function look(card, file) {
  await introduced;
  const { results } = await (await call("score", file)).json();
  const result = results[0];
  if (result.is_outlier) become(card, "outlier", "Does not belong");
  else become(card, "belongs", "Seems to belong");
  explainInWords(card, result);
  summarize();
  histogram ??= call("histogram.json").then((answer) => answer.json());
  shown.set(card, result);
  near.observe(card);
  await heat(card, file);
}

function become(card, state, says) {
  card.classList.remove("waiting", "outlier", "belongs", "failed");
  card.classList.add(state);
  card.querySelector(".says").textContent = says;
}

function explainInWords(card, { p_value: p, statistic, mass, log_prob: logProb }) {
  const all = detector.calibration_images;
  const above = Math.round(p * (all + 1)) - 1;
  const of = `of the ${count.format(all)} images of the fit that were held out`;
  const compared =
    above === 0 ? `None ${of} has a score as high.` :
    above === 1 ? `One ${of} has a score at least as high.` :
    `${count.format(above)} ${of} have a score at least as high.`;
  card.querySelector(".why").textContent =
    `${compared} If this image were like those of the fit, the chance of a score ` +
    `at least this high would be ${percent.format(p)}.`;
  const facts = [["p-value", number.format(p)], ["score", number.format(statistic)]];
  if (mass !== null) facts.push(["mass", number.format(mass)]);
  if (logProb !== null) facts.push(["log-likelihood", number.format(logProb)]);
  card.querySelector(".numbers").replaceChildren(
    ...facts.map(([name, value]) => {
      const pair = document.createElement("div");
      const [term, definition] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      definition.textContent = value.replace("-", "\u2212"); // a minus sign
      pair.append(term, definition);
      return pair;
    }),
  );
}

function text(words) {
  const span = document.createElement("span");
  span.textContent = words;
  return span;
}

async function heat(card, file) {
  const frame = card.querySelector(".heat .frame");
  if (!detector.explains) {
    frame.replaceChildren(text(`the method ${detector.method} has no density to map`));
    card.querySelector(".heat figcaption").textContent = "no heat map";
    return;
  }
  let answer;
  try {
    answer = await call("explain", file);
  } catch (error) {
    frame.replaceChildren(text(error.message)); // the verdict stands
    return;
  }
  const image = new Image();
  image.alt = "Heat map: the hotter, the more a part of the image weighs in the score";
  image.src = URL.createObjectURL(await answer.blob());
  await image.decode();
  frame.replaceChildren(image);
}

function summarize() {
  const has = (state) => cards.querySelectorAll(`.${state}`).length;
  const [outliers, belong, failed, waiting] = ["outlier", "belongs", "failed", "waiting"].map(has);
  const parts = [];
  if (outliers) parts.push(`${count.format(outliers)} ${outliers === 1 ? "does" : "do"} not belong`);
  if (belong) parts.push(`${count.format(belong)} ${belong === 1 ? "seems" : "seem"} to belong`);
  if (failed) parts.push(`${count.format(failed)} not scored`);
  if (waiting) parts.push(`looking at ${count.format(waiting)}`);
  $("summary").textContent = parts.join(", ");
}

$("clear").addEventListener("click", () => {
  queue.length = 0;
  for (const image of cards.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  for (const { view } of shown.values()) view?.finalize();
  shown.clear();
  cards.replaceChildren();
  $("bar").hidden = true;
  document.body.classList.remove("busy");
  $("files").focus();
});

// --- charts, drawn when they come near the window

const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      draw(target).catch((error) => {
        target.querySelector(".place figcaption").textContent = error.message;
        if (!(error instanceof Refused)) console.error(error);
      });
    }
  },
  { rootMargin: "300px" },
);

async function draw(card) {
  const spec = structuredClone(await histogram);
  const result = shown.get(card);
  if (!result) return;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const [ink, soft, grid] = ["ink", "soft", "grid"].map(colour);
  spec.height = 140;
  spec.layer[0].encoding.y.title = null; // the caption says it
  spec.layer.at(-1).mark.color = ink; // seen on the bars and beside them
  spec.config = {
    background: "transparent",
    font: style.fontFamily,
    view: { stroke: null },
    axis: {
      labelColor: soft, titleColor: soft, gridColor: grid, domainColor: grid, tickColor: grid,
      titleFontWeight: "normal", titleFontSize: 12, labelFontSize: 11, titlePadding: 8,
    },
    axisY: { tickCount: 3 },
  };
  result.view?.finalize();
  const chart = card.querySelector(".chart");
  // The interpreter of expressions: the page lets no text become code.
  const { view } = await window.vegaEmbed(chart, spec, {
    actions: false, ast: true, renderer: "svg", defaultStyle: false, tooltip: false,
  });
  result.view = view;
  await view.signal("score", result.statistic).runAsync();
  const where = result.is_outlier ? "beyond" : "before";
  chart.setAttribute("aria-label", `Histogram of the scores of images like those of the fit; this one lies ${where} the line of 5%.`);
  card.querySelector(".place figcaption").textContent =
    "Bars: images like those of the fit. Dashed: 5% of them lie beyond. Solid: this image.";
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [card, { view }] of shown) if (view) draw(card);
});

// --- ways in

$("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});

let depth = 0; // of elements that the pointer with the files has entered
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => {
  if (carriesFiles(event)) $("drop").classList.toggle("over", ++depth > 0);
});
addEventListener("dragleave", (event) => {
  if (carriesFiles(event)) $("drop").classList.toggle("over", --depth > 0);
});
addEventListener("dragover", (event) => {
  if (carriesFiles(event)) event.preventDefault();
});
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  depth = 0;
  $("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  if (!$("ask").open) add(event.clipboardData.files);
});
