// The smallest visit: open the address, answer with the title and the text.
import { browse } from './browser.mjs';

await browse(async ({ page, args, shot }) => {
  await page.goto(args.url);
  await shot(args.shot ?? 'title');
  return { title: await page.title(), text: await page.innerText('body') };
});
