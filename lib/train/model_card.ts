/** README.md of a run. */
import { version } from '../../package.json';
import { cardAdvice, code, frontMatter, signed, usage, type CardSubject } from '../formats/card';
import { baseModelId } from '../hub/cache';
import { resultFacts, settingFacts, subjectFacts, type Fact, type RunFacts } from './facts';

const list = (facts: readonly Fact[]): string =>
  facts.map(([name, value]) => `- ${name}: ${code(value)}`).join('\n');

/** The card of a run as it stands. */
export function modelCard(run: RunFacts): string {
  const base = baseModelId(run.model.directory);
  const { title, ...facts } = run.subject.facts;
  const subject: CardSubject = { ...facts, base, labels: run.model.config.head?.labels };
  const text = `${frontMatter(subject)}
# ${title} of ${code(base ?? 'BASE_MODEL')}

Trained with lora-native ${version}. ${cardAdvice(subject)}

## What it was trained on

${list(subjectFacts(run))}

## Settings

${list(settingFacts(run))}

## Result

${list(resultFacts(run))}

## How to use it

${usage(subject)}`;
  return signed(text);
}
