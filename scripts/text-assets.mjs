/** esbuild's loaders for the files that a bundle of lib/ holds as text (lib/train/report). */
export const textAssets = { '.iife.min.js': 'text', '.client.js': 'text', '.css': 'text' };
