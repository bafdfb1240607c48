/** esbuild's loaders for the files that a bundle of lib/ holds as text (lib/train/report, lib/grammar). */
export const textAssets = {
  '.iife.min.js': 'text',
  '.client.js': 'text',
  '.worker.js': 'text',
  '.css': 'text',
};
