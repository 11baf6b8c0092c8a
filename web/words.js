// What the page says, in the user's language: the English sentence is the key, and locales/LANGUAGE/main.json has it in
// another one. ComfyUI serves those files.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let translated = {};

/** Read the sentences of ComfyUI's language; until then, and where there are none, English is shown. */
export async function readWords() {
  const language = app.extensionManager?.setting?.get?.("Comfy.Locale") ?? "en";
  try {
    translated = (await (await api.fetchApi("/i18n")).json())[language]?.multigpu ?? {};
  } catch (error) {
    console.info(`MultiGPU is shown in English: ${error.message}`);
  }
}

/** The sentence in the user's language, with `{name}` replaced by `values.name`. */
export function say(sentence, values = {}) {
  return (translated[sentence] ?? sentence).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
