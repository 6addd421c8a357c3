import { styleText } from "node:util";

type Painter = (text: string) => string;
export type Paint = Readonly<Record<"red" | "green" | "yellow" | "cyan" | "dim" | "bold", Painter>>;

/** Colours where they are wanted: on a terminal that is not dumb, without NO_COLOR; or where FORCE_COLOR says so. */
export function paintFor(isTTY: boolean, env: NodeJS.ProcessEnv): Paint {
	const forced = env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== "" && env.FORCE_COLOR !== "0";
	const wanted = !env.NO_COLOR && (forced || (isTTY && env.TERM !== "dumb"));
	const painter =
		(style: keyof Paint): Painter =>
		(text) =>
			wanted && text !== "" ? styleText(style, text, { validateStream: false }) : text;
	return {
		red: painter("red"),
		green: painter("green"),
		yellow: painter("yellow"),
		cyan: painter("cyan"),
		dim: painter("dim"),
		bold: painter("bold"),
	};
}
