// A process that says when it is ready and then answers one line of JSON for each line that it reads.
import { createInterface } from 'node:readline';

export async function serve(ready, answer) {
  const print = (value) => console.log(JSON.stringify(value));
  print(ready);
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      print(await answer(JSON.parse(line)));
    } catch (error) {
      print({ error: error.stack });
    }
  }
  process.exit(0);
}
