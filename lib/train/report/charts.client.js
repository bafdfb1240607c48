// Draws the charts of a report out of the numbers that stand in the page.
(() => {
  const { points, evaluations } = JSON.parse(document.getElementById('numbers').textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const steps = [...new Set([...points, ...evaluations].map(([step]) => step))].sort((a, b) => a - b);
  /** The values of one column by step, null where there is none. */
  const column = (rows, index) => {
    const values = new Map(rows.map((row) => [row[0], row[index]]));
    return steps.map((step) => values.get(step) ?? null);
  };
  const line = (label, name) => ({
    label,
    stroke: () => colour(name),
    width: 1.5,
    spanGaps: true,
    points: { show: points.length < 40 },
    value: (_, value) => (value === null ? '–' : value.toPrecision(4)),
  });
  const charts = {
    loss: [
      [line('loss', '--first'), column(points, 1)],
      ...(evaluations.length
        ? [[{ ...line('evaluation', '--second'), points: { show: true } }, column(evaluations, 1)]]
        : []),
    ],
    lr: [[line('learning rate', '--first'), column(points, 2)]],
    norm: [[line('gradient norm', '--first'), column(points, 3)]],
  };
  const axis = {
    stroke: () => colour('--quiet'),
    grid: { stroke: () => colour('--line'), width: 1 },
    ticks: { stroke: () => colour('--line'), width: 1 },
  };
  const drawn = [];
  for (const [name, lines] of Object.entries(charts)) {
    const place = document.getElementById(name);
    const size = () => ({ width: Math.max(place.clientWidth, 200), height: 240 });
    const options = {
      ...size(),
      scales: { x: { time: false } },
      series: [{ label: 'step' }, ...lines.map(([series]) => series)],
      axes: [
        {
          ...axis,
          incrs: [1, 2, 5, 10, 20, 50].flatMap((n) => [n, n * 100, n * 10000]).sort((a, b) => a - b),
        },
        {
          ...axis,
          size: 68,
          values: (_, values) => values.map((value) => String(Number(value.toPrecision(4)))),
        },
      ],
      cursor: { sync: { key: 'run' } },
    };
    const plot = new uPlot(options, [steps, ...lines.map(([, values]) => values)], place);
    drawn.push({ plot, size });
  }
  addEventListener('resize', () => {
    for (const { plot, size } of drawn) plot.setSize(size());
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    for (const { plot } of drawn) plot.redraw(false, true);
  });
})();
