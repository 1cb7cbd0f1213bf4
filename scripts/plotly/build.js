// Bundles plotly.js with the traces of the dashboard's figures and nothing else, as a plain script.
//
//     cd scripts/plotly && npm ci --ignore-scripts && node build.js
//
// Only who changes the version, or draws another kind of trace, runs this. The published bundle for two axes has eleven
// kinds of traces, world calendars and the style sheet of maps, all in a function around a function: a browser parses it
// twice at the first visit, before it draws.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const TRACES = ["bar", "heatmap"]; // beside scatter, which is in the core

const FILE = fileURLToPath(new URL("../../dashboard/steadynorm_dashboard/library/plotly.min.js", import.meta.url));
const { version } = JSON.parse(readFileSync(new URL("node_modules/plotly.js/package.json", import.meta.url)));
const entry = [
  'const Plotly = require("plotly.js/lib/core");',
  `Plotly.register([${TRACES.map((name) => `require("plotly.js/lib/${name}")`).join(", ")}]);`,
  "module.exports = Plotly;",
];

await build({
  stdin: { contents: entry.join("\n"), resolveDir: fileURLToPath(new URL(".", import.meta.url)) },
  outfile: FILE,
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "Plotly",
  target: "es2016", // as plotly's own builds
  charset: "ascii",
  loader: { ".css": "empty" }, // of maps
  alias: { stream: "stream-browserify" },
  define: { global: "window", "define.amd": "false", "process.env.NODE_DEBUG": "false" },
  banner: { js: `/**\n* plotly.js (scatter, ${TRACES.join(", ")}) v${version}\n* Copyright Plotly, Inc., MIT license\n*/` },
});
