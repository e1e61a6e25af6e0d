// SPDX-License-Identifier: Apache-2.0
// Draws images of an exported model with onnxruntime-web: a generator at once, a diffusion model step by step.
const RUNTIME = "{runtime}";
const $ = id => document.getElementById(id);
const show = (id, shown) => { $(id).closest(".control, button").hidden = !shown; };
const say = problem => { $("problem").textContent = problem; };

/** Uniform numbers of a seed (mulberry32), and normal ones of these (Box-Muller). */
function normals(seed, count) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const found = new Float32Array(count);
  for (let i = 0; i < count; i++) found[i] = Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return found;
}

/** On the great circle from one latent to another, which keeps their length. */
function between(first, second, t) {
  const norm = x => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
  const cosine = first.reduce((sum, value, i) => sum + value * second[i], 0) / (norm(first) * norm(second));
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine))), sine = Math.sin(angle);
  return first.map((value, i) => (Math.sin((1 - t) * angle) * value + Math.sin(t * angle) * second[i]) / sine);
}

/** A picture (C, H, W) in [-1, 1] on the canvas. */
function paint(values, [, channels, height, width]) {
  const canvas = $("picture"), area = height * width, pixels = new Uint8ClampedArray(4 * area);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = Math.round((values[(channels === 1 ? 0 : c) * area + i] + 1) * 127.5);
    pixels[4 * i + 3] = 255;
  }
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.classList.toggle("small", width < 256);
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}

async function open() {
  const config = await (await fetch("config.json")).json();
  const file = new Uint8Array(await (await fetch("model.onnx")).arrayBuffer());
  const gpu = navigator.gpu && (await navigator.gpu.requestAdapter().catch(() => null));
  const ort = await import(new URL(gpu ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs", new URL(RUNTIME, location.href)));
  ort.env.wasm.wasmPaths = new URL(RUNTIME, location.href).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency || 1) : 1;
  const integer = config.export.activations === "int8";
  const options = { extra: integer ? {} : { session: { disable_quant_qdq: "1" } }, logSeverityLevel: 3 };
  const providers = gpu ? ["webgpu", "wasm"] : ["wasm"];
  const session = await ort.InferenceSession.create(file, { ...options, executionProviders: providers });
  $("device").textContent = gpu ? "WebGPU" : `WebAssembly, ${ort.env.wasm.numThreads} thread${ort.env.wasm.numThreads > 1 ? "s" : ""}`;
  $("size").textContent = `${(file.length / 1e6).toFixed(2)} MB`;
  return { config, session, ort };
}

const settings = () => ({
  seed: Number($("seed").value) >>> 0,
  label: Number($("label").value),
  truncation: Number($("truncation").value),
  blend: Number($("blend").value),
  steps: Number($("steps").value),
});

/** One image of a generator. */
async function generate({ config, session, ort }, now) {
  const scale = config.export.truncates_latents ? now.truncation : 1;
  const latent = seed => normals(seed, config.z_dim).map(value => value * scale);
  let z = latent(now.seed);
  if (now.blend > 0) z = between(z, latent(now.seed + 1), now.blend);
  const feeds = { z: new ort.Tensor("float32", z, [1, config.z_dim]) };
  if (session.inputNames.includes("class_labels")) {
    const row = new Float32Array(config.num_classes);
    row[now.label] = 1;
    feeds.class_labels = new ort.Tensor("float32", row, [1, row.length]);
  }
  if (session.inputNames.includes("truncation_psi")) {
    const psi = new Float32Array(config.export.num_ws).fill(now.truncation);
    feeds.truncation_psi = new ort.Tensor("float32", psi, [psi.length]);
  }
  const start = performance.now();
  const { sample } = await session.run(feeds);
  const values = await sample.getData();
  $("time").textContent = `${(performance.now() - start).toFixed(1)} ms per image`;
  paint(values, sample.dims);
  return { feeds, values };
}

/** An image of a diffusion model by DDIM without noise, every step painted. */
async function denoise({ config, session, ort }, now, stopped) {
  const { timesteps, beta_start, beta_end, clip_sample } = config.export.sampler;
  const signal = [];
  for (let i = 0, kept = 1; i < timesteps; i++) signal.push((kept *= 1 - (beta_start + ((beta_end - beta_start) * i) / (timesteps - 1))));
  const shape = [1, config.in_channels, config.sample_size, config.sample_size];
  let state = normals(now.seed, shape.reduce((a, b) => a * b));
  const noise = Array.from(state), stride = Math.floor(timesteps / now.steps);
  const start = performance.now();
  let done = 0;
  for (let i = Math.ceil(timesteps / stride) - 1; i >= 0; i--) {
    const feeds = { sample: new ort.Tensor("float32", state, shape), timestep: new ort.Tensor("int64", BigInt64Array.of(BigInt(i * stride)), [1]) };
    if (session.inputNames.includes("class_labels")) feeds.class_labels = new ort.Tensor("int64", BigInt64Array.of(BigInt(now.label)), [1]);
    const predicted = await (await session.run(feeds)).out_sample.getData();
    const here = signal[i * stride], next = i ? signal[(i - 1) * stride] : 1;
    const image = state.map((x, k) => {
      const found = (x - Math.sqrt(1 - here) * predicted[k]) / Math.sqrt(here);
      return clip_sample ? Math.min(1, Math.max(-1, found)) : found;
    });
    state = state.map((x, k) => Math.sqrt(next) * image[k] + (Math.sqrt(1 - next) / Math.sqrt(1 - here)) * (x - Math.sqrt(here) * image[k]));
    done += 1;
    const each = (performance.now() - start) / done;
    $("time").textContent = `${each.toFixed(1)} ms per step, ${(each * now.steps / 1000).toFixed(2)} s per image`;
    paint(image, shape);
    if (stopped()) return null;
    await new Promise(requestAnimationFrame);
  }
  return { noise, values: state };
}

async function main() {
  const model = await open(), { config, session } = model;
  const diffusion = session.inputNames.includes("timestep");
  const classes = session.inputNames.includes("class_labels") ? config.num_classes || config.num_class_embeds : 0;
  for (let i = 0; i < classes; i++) $("label").append(new Option(config.export.class_names?.[i] ?? String(i), i));
  show("label", classes > 0);
  show("truncation", session.inputNames.includes("truncation_psi") || config.export.truncates_latents);
  show("blend", !diffusion);
  show("walk", !diffusion);
  show("steps", diffusion);

  let wanted = 0, running = false;
  /** Draws what the settings say now; while it draws, only the last change is remembered. */
  async function draw() {
    wanted += 1;
    if (running) return;
    running = true;
    try {
      for (let drawn = -1; drawn !== wanted; ) {
        drawn = wanted;
        const now = settings();
        for (const id of ["truncation", "blend", "steps"]) $(id).parentElement.querySelector("output").textContent = $(id).value;
        const found = await (diffusion ? denoise(model, now, () => drawn !== wanted) : generate(model, now));
        if (found) globalThis.drawn = { ...found, settings: now, number: drawn };
      }
      say("");
    } catch (error) {
      say(`The model could not be run: ${error.message}`);
    } finally {
      running = false;
    }
  }
  for (const id of ["seed", "label", "truncation", "blend", "steps"]) $(id).addEventListener("input", draw);
  $("controls").addEventListener("submit", event => {
    event.preventDefault();
    $("seed").value = (Number($("seed").value) + 1) >>> 0;
    $("blend").value = 0;
    draw();
  });
  let walking = false;
  async function walk() {
    while (walking) {
      const next = Number($("blend").value) + 0.02;
      if (next >= 1) $("seed").value = (Number($("seed").value) + 1) >>> 0;
      $("blend").value = next >= 1 ? 0 : next;
      await draw();
      await new Promise(requestAnimationFrame);
    }
  }
  $("walk").addEventListener("click", () => {
    walking = !walking;
    $("walk").setAttribute("aria-pressed", String(walking));
    $("walk").textContent = walking ? "Stop" : "Walk";
    walk();
  });
  await draw();
}

main().catch(error => {
  $("time").textContent = "";
  say(`The page could not open the model: ${error.message}. Pages that are opened from a disk need a server: python -m http.server`);
});
