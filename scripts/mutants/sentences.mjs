// Stryker plugin: leaves texts with a blank alone. They are sentences for people; a test of every word would be a copy.
import { PluginKind, declareValuePlugin } from '@stryker-mutator/api/plugin';

const text = (node) =>
  node.type === 'StringLiteral'
    ? node.value
    : node.type === 'TemplateLiteral'
      ? node.quasis.map(({ value }) => value.raw).join('')
      : '';

const sentences = {
  shouldIgnore: ({ node }) => (text(node).includes(' ') ? 'a sentence for people' : undefined),
};

export const strykerPlugins = [declareValuePlugin(PluginKind.Ignore, 'sentences', sentences)];
