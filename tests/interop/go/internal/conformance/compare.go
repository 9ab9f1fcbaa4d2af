package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"sort"
	"strings"

	"interop/internal/answer"
)

// Write stores answers, one case a line, so that a change shows as a line.
func Write(path string, all []Answered) error {
	var text bytes.Buffer
	text.WriteString("[\n")
	for i, one := range all {
		line, err := compact(one)
		if err != nil {
			return err
		}
		text.Write(line)
		if i < len(all)-1 {
			text.WriteByte(',')
		}
		text.WriteByte('\n')
	}
	text.WriteString("]\n")
	return os.WriteFile(path, text.Bytes(), 0o644) //nolint:gosec // test data
}

func compact(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(text.Bytes()), nil
}

// Read loads what Write stored.
func Read(path string) ([]Answered, error) {
	var all []Answered
	return all, readJSON(path, &all)
}

// Accepted is a difference that somebody looked at and found right.
type Accepted struct {
	// Case and Path may have `*` for any text.
	Case string `json:"case"`
	Path string `json:"path"`
	// Ours is what Chancery answers there, as compact JSON; "*": anything.
	Ours string `json:"ours"`
	// Why says for what reason it differs.
	Why string `json:"why"`
}

// ReadAccepted loads the reviewed list.
func ReadAccepted(path string) ([]Accepted, error) {
	var all []Accepted
	if err := readJSON(path, &all); err != nil {
		return nil, err
	}
	for _, one := range all {
		if one.Case == "" || one.Path == "" || len(one.Why) < 10 {
			return nil, fmt.Errorf("%s: an accepted difference needs a case, a path and a reason: %+v", path, one)
		}
	}
	return all, nil
}

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Difference between the recorded answer to a case and the one that came.
type Difference struct {
	Case, Caller, Method string
	Path                 string
	Recorded, Came       string
}

// Compare gives what differs beyond what is accepted. Methods that are not there yet
// (`Unimplemented`, where the recorded server has them) are listed apart; accepted
// differences that no longer show are an error each.
func Compare(recorded, came []Answered, accepted []Accepted) (differences []Difference, missing []string, stale []Accepted, err error) {
	expected := map[string]Answered{}
	for _, one := range recorded {
		expected[one.Case] = one
	}
	used := make([]bool, len(accepted))
	absent := map[string]bool{}
	for _, one := range came {
		other, known := expected[one.Case]
		if !known {
			differences = append(differences, Difference{Case: one.Case, Path: "case", Came: "not among the recorded ones"})
			continue
		}
		if unimplemented(one.Record) && !unimplemented(other.Record) {
			absent[one.Method] = true
			continue
		}
		left, err := tree(other.Record)
		if err != nil {
			return nil, nil, nil, err
		}
		right, err := tree(one.Record)
		if err != nil {
			return nil, nil, nil, err
		}
		for _, difference := range diff("", left, right) {
			difference.Case, difference.Caller, difference.Method = one.Case, one.Caller, one.Method
			if !allowed(difference, accepted, used) {
				differences = append(differences, difference)
			}
		}
	}
	for method := range absent {
		missing = append(missing, method)
	}
	sort.Strings(missing)
	for i, one := range accepted {
		if !used[i] {
			stale = append(stale, one)
		}
	}
	return differences, missing, stale, nil
}

func unimplemented(record answer.Record) bool { return record.Code == "Unimplemented" }

func allowed(difference Difference, accepted []Accepted, used []bool) bool {
	for i, one := range accepted {
		if matches(one.Case, difference.Case) && matches(one.Path, difference.Path) && matches(one.Ours, difference.Came) {
			used[i] = true
			return true
		}
	}
	return false
}

func matches(pattern, text string) bool {
	quoted := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`)
	return regexp.MustCompile(`(?s)^` + quoted + `$`).MatchString(text)
}

func tree(record answer.Record) (any, error) {
	text, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	var into any
	return into, json.Unmarshal(text, &into)
}

func diff(path string, left, right any) []Difference {
	switch l := left.(type) {
	case map[string]any:
		if r, ok := right.(map[string]any); ok {
			names := map[string]bool{}
			for name := range l {
				names[name] = true
			}
			for name := range r {
				names[name] = true
			}
			sorted := make([]string, 0, len(names))
			for name := range names {
				sorted = append(sorted, name)
			}
			sort.Strings(sorted)
			var all []Difference
			for _, name := range sorted {
				all = append(all, diff(strings.TrimPrefix(path+"."+name, "."), l[name], r[name])...)
			}
			return all
		}
	case []any:
		if r, ok := right.([]any); ok && len(l) == len(r) {
			var all []Difference
			for i := range l {
				all = append(all, diff(fmt.Sprintf("%s[%d]", path, i), l[i], r[i])...)
			}
			return all
		}
	}
	if reflect.DeepEqual(left, right) {
		return nil
	}
	recorded, err := compact(left)
	if err != nil {
		recorded = []byte(err.Error())
	}
	came, err := compact(right)
	if err != nil {
		came = []byte(err.Error())
	}
	return []Difference{{Path: path, Recorded: string(recorded), Came: string(came)}}
}
