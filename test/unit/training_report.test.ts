import { join } from 'node:path';
import { duration, JsonReport, TextReport } from '../../lib/cli/training_report';
import type { StepEvent } from '../../lib/train/events';
import { fakeConsole } from '../support/command_line';

const step = (number: number, rest: Partial<StepEvent> = {}): StepEvent => ({
  type: 'step',
  step: number,
  epoch: 0,
  loss: 1.23456,
  lr: 2e-4,
  gradNorm: 0.5,
  tokens: 7,
  tokensPerSecond: 811.6,
  etaSeconds: 65,
  ...rest,
});
const start = { type: 'start', step: 0, maxSteps: 4, trainableParameters: 50 } as const;

test.each([
  [-1, '0s'],
  [0.4, '0s'],
  [59.4, '59s'],
  [59.6, '1m0s'],
  [65, '1m5s'],
  [3599.4, '59m59s'],
  [3599.6, '1h0m'],
  [7500, '2h5m'],
])('%d seconds left are shown as %s', (seconds, words) => {
  expect(duration(seconds)).toBe(words);
});

describe('the report for people', () => {
  test('is a line per event on standard error, with the time that is left', () => {
    const { console, err, out } = fakeConsole();
    const report = new TextReport(console, {
      frozen: 950,
      file: join('my-run', 'adapter_model.safetensors'),
    });
    report.show(start);
    report.show(step(1));
    report.show({ type: 'eval', step: 1, loss: 0.5, perplexity: 1.6487, tokens: 3 });
    report.show({ type: 'checkpoint', step: 1, dir: 'my-run/checkpoint-1' });
    report.show(step(4, { etaSeconds: 0 }));
    report.show({ type: 'end', step: 4, loss: 1, adapterStep: 4, stopped: 'done' });
    report.close();
    expect(err().replace(/\d+ MiB/g, 'N MiB')).toBe(
      [
        'training 50 parameters (5.00%)',
        'step 1/4  loss 1.2346  lr 2.0e-4  812 tokens/s  1m5s left  N MiB',
        'step 1  evaluation loss 0.5000, perplexity 1.65',
        'saved my-run/checkpoint-1',
        'step 4/4  loss 1.2346  lr 2.0e-4  812 tokens/s  0s left  N MiB',
        'done: my-run/adapter_model.safetensors',
        '',
      ].join('\n'),
    );
    expect(out()).toBe('');
  });

  test('says which adapter is there, and why a run stopped early', () => {
    const { console, err } = fakeConsole();
    const report = new TextReport(console, { frozen: 950, file: join('run', 'adapter_model.safetensors') });
    const best = { step: 1, loss: 9.49, dir: 'run/checkpoint-1' };
    const reason = '1 evaluation was no better than that of step 1';
    report.show({ type: 'end', step: 2, loss: 1, best, adapterStep: 1, stopped: 'early', reason });
    expect(err()).toBe(
      `stopped early after step 2: ${reason}\n` +
        'done: run/adapter_model.safetensors, of step 1: the best evaluation, loss 9.4900\n',
    );
  });

  test('in a log shows the first step, the last, and one every five seconds', () => {
    const { console, err } = fakeConsole();
    const clock = jest.spyOn(performance, 'now');
    try {
      const report = new TextReport(console, { frozen: 1, file: join('x', 'adapter_model.safetensors') });
      report.show({ ...start, maxSteps: 9 });
      const at = [100_000, 101_000, 105_000, 105_001, 110_000, 110_002];
      for (const [i, now] of at.entries()) {
        clock.mockReturnValue(now);
        report.show(step(i + 1));
      }
      clock.mockReturnValue(110_003);
      report.show(step(9));
    } finally {
      clock.mockRestore();
    }
    expect([...err().matchAll(/^step (\d+)\/9/gm)].map(([, number]) => number)).toEqual(['1', '4', '6', '9']);
  });

  test('does not say what is not known: the number of steps and the time left', () => {
    const { console, err } = fakeConsole();
    const report = new TextReport(console, { frozen: 1, file: join('x', 'adapter_model.safetensors') });
    report.show({ ...start, maxSteps: undefined });
    report.show(step(1, { etaSeconds: undefined }));
    expect(err()).toMatch(/^step 1 {2}loss 1\.2346 {2}lr 2\.0e-4 {2}812 tokens\/s {2}\d+ MiB$/m);
  });

  test('on a terminal rewrites one line, no wider than the screen, and ends it before anything else', () => {
    const { console, err } = fakeConsole({ columns: 32 });
    const report = new TextReport(console, { frozen: 950, file: join('x', 'adapter_model.safetensors') });
    report.show(start);
    report.show(step(1));
    report.show(step(2));
    report.show({ type: 'checkpoint', step: 2, dir: 'x/checkpoint-2' });
    report.show(step(3));
    report.close();
    report.close();
    const line = (n: number) => `\r\x1b[2Kstep ${n}/4  loss 1.2346  lr 2.0e-`;
    expect(err()).toBe(
      `training 50 parameters (5.00%)\n${line(1)}${line(2)}\nsaved x/checkpoint-2\n${line(3)}\n`,
    );
  });

  test('takes 80 columns where the terminal does not say how many', () => {
    const { console, err } = fakeConsole({ columns: 0 });
    new TextReport(console, { frozen: 950, file: join('x', 'adapter_model.safetensors') }).show(
      step(1, { etaSeconds: 1e7, tokensPerSecond: 123_456_789_012_345 }),
    );
    expect(err()).toHaveLength('\r\x1b[2K'.length + 79);
  });
});

test('the report for programs is the event on a line of its own, on standard output', () => {
  const { console, err, out } = fakeConsole();
  const report = new JsonReport(console);
  report.show(start);
  report.show(step(2));
  report.close();
  expect(out()).toBe(`${JSON.stringify(start)}\n${JSON.stringify(step(2))}\n`);
  expect(err()).toBe('');
});
