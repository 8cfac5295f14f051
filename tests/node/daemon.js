// A real sessad for a test file: started on free ports, drained at the end.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import path from 'node:path';

const build = process.env.SESSA_BUILD_DIR;

// Resolves to {address, stop()}; stop() resolves to the exit code after SIGTERM.
export async function startDaemon(flags = []) {
  const program = path.join(build, 'bin', 'sessad');
  const child = spawn(program, ['--listen=127.0.0.1:0', '--metrics_listen=127.0.0.1:0', ...flags], {
    cwd: process.env.SESSA_SOURCE_DIR,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  const log = [];
  const address = await new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on('line', (line) => {
      log.push(line);
      const listening = line.match(/listening grpc=(\S+)/);
      if (listening) resolve(listening[1]);
    });
    exited.then((code) => reject(new Error(`sessad ended with ${code}:\n${log.join('\n')}`)));
  });
  return {
    address,
    stop() {
      child.kill('SIGTERM');
      return exited;
    },
  };
}
