/** Chat models that the tests of a file share, and which go after them. */
import { rmSync } from 'node:fs';
import { CausalLM } from '../../lib/index';
import { answeringAdapter, answeringModel } from './answering_model';
import { thinkingTemplate } from './saying';
import { temporaryFolder } from './temporary';
import { tinyModel } from './tiny_model';

export interface ChatModels {
  /** Answers `Hi!`, and `Yo.` with its adapter `yo`. */
  readonly answering: CausalLM;
  /** Has the template of thoughts and tools, and draws whatever it is held to. */
  readonly drawing: CausalLM;
}

/** They are there when the tests of the file begin. */
export function chatModels(): ChatModels {
  const scratch = temporaryFolder();
  const models = {} as { -readonly [name in keyof ChatModels]: CausalLM };
  beforeAll(async () => {
    const dir = await answeringModel('Hi!');
    models.answering = await CausalLM.fromPretrained(dir);
    await models.answering.loadAdapter(await answeringAdapter(dir, 'Yo.', `${scratch}/yo`), { name: 'yo' });
    const config = { max_position_embeddings: 4096 };
    const drawn = await tinyModel({ config, chatTemplate: thinkingTemplate });
    models.drawing = await CausalLM.fromPretrained(drawn);
  });
  afterAll(async () => {
    for (const one of Object.values(models)) {
      await one.dispose();
      rmSync(one.directory, { recursive: true });
    }
  });
  return models;
}
