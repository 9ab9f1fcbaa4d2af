// Command linearizability judges histories of concurrent operations with Porcupine,
// an existing checker: is there one order of the operations of each object that
// respects real time and that the object's rules allow?
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// Operation is one line of a history.
type Operation struct {
	// Object the operation is about; objects are judged each for itself.
	Object string `json:"object"`
	// Model of the object: a key of models.
	Model string `json:"model"`
	// Client that waited for the answer.
	Client int `json:"client"`
	// Call and Return are nanoseconds of one monotonic clock; Return is nil where the
	// outcome stayed unknown.
	Call   int64  `json:"call"`
	Return *int64 `json:"return"`
	// Op and Arg are what was asked.
	Op  string `json:"op"`
	Arg string `json:"arg"`
	// Result is what was answered, "?" where the outcome stayed unknown.
	Result string `json:"result"`
	// Node is told to the reader only.
	Node string `json:"node"`
}

// Verdict is what was found out about one object.
type Verdict struct {
	Object     string  `json:"object"`
	Model      string  `json:"model"`
	Operations int     `json:"operations"`
	Verdict    string  `json:"verdict"` // "legal", "illegal" or "unknown"
	Seconds    float64 `json:"seconds"`
	// History of the object in the order of the calls, where it is not legal.
	History []string `json:"history,omitempty"`
}

func main() {
	limit := flag.Duration("limit", 30*time.Second, "longest time for one object; then its verdict is \"unknown\"")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *limit); err != nil {
		fmt.Fprintln(os.Stderr, "linearizability:", err)
		os.Exit(1)
	}
}

// run reads operations, one JSON object a line, and writes one verdict a line.
func run(in io.Reader, out io.Writer, limit time.Duration) error {
	objects, err := read(in)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(objects))
	for name := range objects {
		names = append(names, name)
	}
	sort.Strings(names)
	written := json.NewEncoder(out)
	for _, name := range names {
		verdict, err := judge(name, objects[name], limit)
		if err != nil {
			return err
		}
		if err := written.Encode(verdict); err != nil {
			return err
		}
	}
	return nil
}

func read(in io.Reader) (map[string][]Operation, error) {
	objects := map[string][]Operation{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var op Operation
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if op.Return == nil && op.Result != unknown {
			return nil, fmt.Errorf("line %d: a result without a time of return", n)
		}
		objects[op.Object] = append(objects[op.Object], op)
	}
	return objects, lines.Err()
}

func judge(name string, operations []Operation, limit time.Duration) (Verdict, error) {
	kind := operations[0].Model
	model, known := models[kind]
	if !known {
		return Verdict{}, fmt.Errorf("object %s: no model %q", name, kind)
	}
	history := make([]porcupine.Operation, 0, len(operations))
	var end int64
	for _, op := range operations {
		end = max(end, op.Call)
		if op.Return != nil {
			end = max(end, *op.Return)
		}
	}
	for _, op := range operations {
		if op.Model != kind {
			return Verdict{}, fmt.Errorf("object %s has two models: %q and %q", name, kind, op.Model)
		}
		// What may or may not have taken effect may do so at any later time.
		back := end + 1
		if op.Return != nil {
			back = *op.Return
		}
		history = append(history, porcupine.Operation{
			ClientId: op.Client, Input: op, Call: op.Call, Output: op.Result, Return: back,
		})
	}
	started := time.Now()
	result := porcupine.CheckOperationsTimeout(model, history, limit)
	verdict := Verdict{
		Object: name, Model: kind, Operations: len(operations), Seconds: time.Since(started).Seconds(),
	}
	switch result {
	case porcupine.Ok:
		verdict.Verdict = "legal"
	case porcupine.Illegal:
		verdict.Verdict = "illegal"
		verdict.History = tell(operations)
	default:
		verdict.Verdict = "unknown"
	}
	return verdict, nil
}

// tell puts a history into words, in the order of the calls.
func tell(operations []Operation) []string {
	sort.SliceStable(operations, func(a, b int) bool { return operations[a].Call < operations[b].Call })
	first := operations[0].Call
	told := make([]string, 0, len(operations))
	for _, op := range operations {
		back := "never"
		if op.Return != nil {
			back = fmt.Sprintf("%.3f", float64(*op.Return-first)/1e6)
		}
		told = append(told, fmt.Sprintf("%.3f-%s ms client %d node %s: %s(%s) = %s",
			float64(op.Call-first)/1e6, back, op.Client, op.Node, op.Op, op.Arg, op.Result))
	}
	return told
}
