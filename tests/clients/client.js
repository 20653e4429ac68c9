// Streams a WAV by `ws` and prints the Termination: node client.js URL FILE TOKEN CA
const fs = require('fs');
const WebSocket = require('ws');

const [url, file, token, ca] = process.argv.slice(2);
const wav = fs.readFileSync(file);
const rate = wav.readUInt32LE(24);
// The data of the recordings of these tests begins behind the plain head.
const audio = wav.subarray(44);

const socket = new WebSocket(`${url}?model=vad&sample_rate=${rate}`, ['suzu.v1', `token.${token}`], {
  ca: fs.readFileSync(ca),
});
socket.on('open', () => {
  if (socket.protocol !== 'suzu.v1') throw new Error(`the subprotocol is ${socket.protocol}`);
  const step = Math.floor(rate / 5) * 2;
  for (let begin = 0; begin < audio.length; begin += step) socket.send(audio.subarray(begin, begin + step));
  socket.send(JSON.stringify({ type: 'CloseStream' }));
});
let termination;
socket.on('message', (data, isBinary) => {
  const message = isBinary ? {} : JSON.parse(data.toString());
  if (message.type === 'Termination') termination = message;
});
socket.on('close', (code) => {
  if (code !== 1000 || !termination) throw new Error(`closed with ${code}`);
  console.log(JSON.stringify({ termination, seconds: audio.length / 2 / rate }));
});
