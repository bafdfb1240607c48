// Rows of the bundled task as examples in which only the answer counts, for the programs that compare adapters.
import { readFile } from 'node:fs/promises';

/** name: 'train' or 'heldout'. */
export async function answers(name, tokenizer) {
  const lines = (await readFile(new URL(`${name}.jsonl`, import.meta.url), 'utf8')).trim().split('\n');
  return lines.map((line) => {
    const [question, answer] = JSON.parse(line).text.split('-> ');
    const prompt = tokenizer.encode(`${question}->`);
    const completion = tokenizer.encode(` ${answer}`, { addSpecialTokens: false });
    return { inputIds: [...prompt, ...completion], labels: [...prompt.map(() => -100), ...completion] };
  });
}

/** The same rows with the token that ends a text, so that what is written ends too. */
export async function endedAnswers(name, { tokenizer, config }) {
  const end = config.eosTokenIds[0];
  const rows = await answers(name, tokenizer);
  return rows.map(({ inputIds, labels }) => ({ inputIds: [...inputIds, end], labels: [...labels, end] }));
}
