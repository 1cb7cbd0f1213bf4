// Draws a plotly figure into the page and redraws it in place. See live_chart.py.

const loads = new Map();

/** The plotly library at `url`, fetched once a page. */
function load(url) {
  if (!loads.has(url)) {
    loads.set(
      url,
      new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = url;
        script.onload = () => resolve(window.Plotly);
        script.onerror = () => reject(new Error(`cannot load ${url}`));
        document.head.append(script);
      }),
    );
  }
  return loads.get(url);
}

/** The figure in the colours that the page has now: a visitor may switch between light and dark at any time. */
function dressed(figure, host) {
  const style = getComputedStyle(host);
  const color = (name) => style.getPropertyValue(name).trim() || undefined;
  const text = color("--st-text-color");
  const ground = color("--st-background-color");
  const layout = figure.layout;
  const edge = color("--st-border-color");
  layout.font = { family: color("--st-font"), size: 12, color: text };
  layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
  layout.hoverlabel = { bgcolor: color("--st-secondary-background-color"), bordercolor: edge, font: layout.font };
  layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: edge, activecolor: text };
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    Object.assign(layout[name], { gridcolor: edge, linecolor: edge, zerolinecolor: edge });
  }
  for (const trace of figure.data) {
    if (trace.marker?.line) trace.marker.line.color = ground;
  }
  return figure;
}

export default async function draw({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".steadynorm-chart");
  const plotly = await load(new URL(data.library, document.baseURI).href);
  const { data: traces, layout } = dressed(JSON.parse(data.figure), host);
  // `react` changes what differs and keeps what the visitor did (zoom, hidden traces) while uirevision is the same.
  await plotly.react(host, traces, layout, { displaylogo: false, responsive: true, ...data.options });
  if (data.clicks && !host.steadynormClicks) {
    host.steadynormClicks = true; // one listener, however often the figure is drawn
    host.on("plotly_click", ({ points }) => {
      const said = points[0]?.customdata;
      if (typeof said === "string") setTriggerValue("clicked", said);
    });
  }
}
