import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

// Several threads need a page that is cross-origin isolated.
ort.env.wasm.numThreads = crossOriginIsolated ? navigator.hardwareConcurrency : 1;

const SIZE = 8;
const canvas = document.querySelector("canvas");
const output = document.querySelector("output");

/** The session of a model file; its kernels are WebAssembly. */
export function load(url) {
  return ort.InferenceSession.create(url, { executionProviders: ["wasm"] });
}

/** Images [N, 3, 8, 8] to logits [N, 10], both as one Float32Array. */
export async function run(session, images) {
  const count = images.length / (3 * SIZE * SIZE);
  const input = new ort.Tensor("float32", images, [count, 3, SIZE, SIZE]);
  const results = await session.run({ [session.inputNames[0]]: input });
  return results[session.outputNames[0]].data;
}

/** An image as the model takes it: 8×8 pixels, mean 0.5, std 0.5, by channels. */
export function prepare(image) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, SIZE, SIZE);
  const { data } = context.getImageData(0, 0, SIZE, SIZE);
  const pixels = SIZE * SIZE;
  return Float32Array.from({ length: 3 * pixels }, (_, at) => {
    const [channel, pixel] = [Math.floor(at / pixels), at % pixels];
    return (data[4 * pixel + channel] / 255 - 0.5) / 0.5;
  });
}

/** Softmax of logits. */
function probabilities(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (x) => Math.exp(x - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((x) => x / sum);
}

async function classify(session, file) {
  const image = prepare(await createImageBitmap(file));
  const share = probabilities(await run(session, image));
  const digit = share.indexOf(Math.max(...share));
  output.textContent = `This is a ${digit} (${(100 * share[digit]).toFixed(1)} %).`;
}

const session = await load("vit.int8.onnx");
output.textContent = "Choose an image.";
document.querySelector("input").addEventListener("change", (event) => {
  classify(session, event.target.files[0]);
});
